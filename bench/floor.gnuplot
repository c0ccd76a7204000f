# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# gnuplot -c floor.gnuplot floor.dat floor.png: what bench_floor --dat wrote, of one thread. Bars are
# the tight precision, rings the fast one.
set terminal pngcairo size 1300,800 font "sans,17" background "white" noenhanced
set output ARG2
set title "Attention against a plain read of the bytes that it reads (one thread, mean over shapes)"
set xlabel "stored as, and bits for each number with every byte counted" offset 0,-0.7
set ylabel "% of a plain read's rate"
set yrange [0:100]
set xtics nomirror font ",14"
set grid y lc rgb "#dddddd"
set key top right Left reverse samplen 1 box lc rgb "#bbbbbb" opaque
set style fill solid 0.8 noborder
set boxwidth 0.2
rows(path) = sprintf("< awk '$1 == \"%s\" && $2 == 1' %s", path, ARG1)
held = ""
do for [path in "avx2 avx512 avx512_vnni neon"] {
  if (strlen(system(sprintf("grep -m1 '^%s ' %s", path, ARG1))) > 0) { held = held . path . " " }
}
color(i) = word("#d1495b #e08214 #1f6fb2", i)
at(i) = column(0) + (i - 0.5 * (words(held) + 1)) * 0.24
set xrange [-0.6:*]
plot for [i=1:words(held)] rows(word(held, i)) using (at(i)):4 with boxes lc rgb color(i) \
       title word(held, i), \
     for [i=1:words(held)] rows(word(held, i)) using (at(i)):5 with points pt 6 ps 1.4 lw 2 \
       lc rgb "#333333" notitle, \
     rows(word(held, 1)) using 0:(0):xtic(sprintf("%s\n%.1f", strcol(6), $3)) with dots lc rgb "white" notitle
