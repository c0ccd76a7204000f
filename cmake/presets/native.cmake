# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Everything, as fast as this machine allows and with symbols for a profiler.
set(CMAKE_BUILD_TYPE Release CACHE STRING "")
set(CMAKE_CXX_FLAGS "-march=native -g -fno-omit-frame-pointer" CACHE STRING "")
set(KVSLIM_CUDA OFF CACHE STRING "")
