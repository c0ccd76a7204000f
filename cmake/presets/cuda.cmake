# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# With nvcc, for the GPUs of this machine; -DCMAKE_CUDA_ARCHITECTURES=90 names another.
set(CMAKE_BUILD_TYPE Release CACHE STRING "")
set(KVSLIM_CUDA ON CACHE STRING "")
set(CMAKE_CUDA_ARCHITECTURES native CACHE STRING "")
