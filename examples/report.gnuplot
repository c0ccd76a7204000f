# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# gnuplot -c report.gnuplot report.dat report.png (or .svg): blocks of report.dat are the corners,
# one per family, the best points, the labels, placed so that none covers another, and their leaders.
if (ARG2[strlen(ARG2)-2:*] eq "svg") {
  set terminal svg size 1300,950 font "sans,19" background "white"
} else {
  set terminal pngcairo size 1300,950 font "sans,19" background "white"
}
set output ARG2
stats ARG1 index 0 using 1 name "X" nooutput
stats ARG1 index 0 using 2 name "Y" nooutput
set title "Smaller is to the right, closer to the exact cache is down (reference model, held-out text)"
set xlabel "times smaller than an f16 cache, every stored byte counted"
set ylabel "KL from the exact cache's next-token distribution, nats"
set logscale xy
set xrange [X_min:X_max]
set yrange [Y_min:Y_max]
set xtics ("1" 1, "1.5" 1.5, "2" 2, "3" 3, "4" 4, "6" 6, "8" 8, "12" 12, "16" 16, "24" 24)
set format y "10^{%L}"
set grid lc rgb "#dddddd"
set key bottom right reverse Left samplen 2 spacing 1.1 font ",16" box lc rgb "#bbbbbb" opaque
set label 1 "exact f16 cache: 1, KL 0 (below)" at graph 0.01, graph 0.03 font ",16" textcolor rgb "#555555"
plot ARG1 index 7 using 1:2 with lines lw 2 dt 2 lc rgb "#999999" title "nothing else is smaller and closer", \
  ARG1 index 10 using 1:2 with lines lw 1 lc rgb "#aaaaaa" notitle, \
  ARG1 index 1 using 1:2 with points pt 7 ps 1.8 lc rgb "#1f6fb2" title "quantized", \
  ARG1 index 2 using 1:2 with points pt 5 ps 1.8 lc rgb "#d1495b" title "evicted after the prompt", \
  ARG1 index 3 using 1:2 with points pt 9 ps 2.2 lc rgb "#8f3f97" title "evicted at every step", \
  ARG1 index 4 using 1:2 with points pt 13 ps 2.2 lc rgb "#3a923a" title "merged", \
  ARG1 index 5 using 1:2 with points pt 11 ps 2.2 lc rgb "#00868b" title "low rank", \
  ARG1 index 6 using 1:2 with points pt 15 ps 2.2 lc rgb "#e08214" title "evicted and quantized", \
  ARG1 index 8 using 1:2:3 with labels left font ",16" textcolor rgb "#222222" noenhanced notitle, \
  ARG1 index 9 using 1:2:3 with labels right font ",16" textcolor rgb "#222222" noenhanced notitle
