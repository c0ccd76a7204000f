# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# gnuplot -c report.gnuplot report.dat report.svg
set terminal svg size 1000,640 font "sans,13" background "white"
set output ARG2
set title "Quality against stored bytes (reference model, held-out text)"
set xlabel "stored bytes per token, all layers and heads"
set ylabel "KL from the exact cache's next-token distribution, nats"
set logscale xy
set grid
set key off
plot ARG1 using 1:2 with points pt 7 ps 0.8 lc rgb "#1f6fb2", ARG1 using 1:2:3 with labels left offset 0.8,0 font ",10" noenhanced
