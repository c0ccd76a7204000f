#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# check.sh WAY SOURCE BINARY COMPILER: builds and runs a consumer that reaches kvslim in one of three ways.
set -eu
way=$1 source=$2 binary=$3 compiler=$4
rm -rf "$binary"
mkdir -p "$binary/project"
cp "$source/tests/compile/consumer/main.cpp" "$binary/project"
install_kvslim() {
  cmake -S "$source" -B "$binary/kvslim" -DKVSLIM_BUILD_TESTS=OFF -DKVSLIM_BUILD_EXAMPLES=OFF -DKVSLIM_BUILD_BENCHMARKS=OFF \
    -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_INSTALL_PREFIX="$binary/prefix" >/dev/null
  cmake --install "$binary/kvslim" >/dev/null
}
case $way in
  add_subdirectory) find="add_subdirectory($source kvslim)" ;;
  find_package)
    install_kvslim
    find="find_package(kvslim 0.1 REQUIRED)"
    ;;
  pkg_config)
    install_kvslim
    PKG_CONFIG_PATH="$binary/prefix/share/pkgconfig" # shellcheck disable=SC2046
    export PKG_CONFIG_PATH
    "$compiler" -std=c++20 $(pkg-config --cflags kvslim) "$binary/project/main.cpp" -o "$binary/consumer"
    exec "$binary/consumer"
    ;;
esac
cat > "$binary/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.21)
project(consumer LANGUAGES CXX)
$find
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE kvslim::kvslim)
if(NOT TARGET kvslim::lowrank OR NOT TARGET kvslim::cuda OR TARGET unit_tests)
  message(FATAL_ERROR "targets are wrong")
endif()
END
cmake -S "$binary/project" -B "$binary/build" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$binary/prefix" >/dev/null
cmake --build "$binary/build" >/dev/null
"$binary/build/consumer"
