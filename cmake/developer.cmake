# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors

# What only the project's own targets need: warnings as errors, a default build type, packages with
# a fallback.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_EXTENSIONS OFF)

add_library(kvslim_developer INTERFACE)
target_link_libraries(kvslim_developer INTERFACE kvslim)
target_compile_options(kvslim_developer INTERFACE
  $<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang>:-Wall -Wextra -Wconversion -Wshadow -Werror>)

# Optimised for the machine that builds: examples and benchmarks only, never what a consumer gets.
add_library(kvslim_native INTERFACE)
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-march=native KVSLIM_HAS_MARCH_NATIVE)
if(KVSLIM_HAS_MARCH_NATIVE)
  target_compile_options(kvslim_native INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
endif()

if(NOT KVSLIM_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Unless devices are named: machine code for three, made of one virtual architecture's code,
    # because nothing in the headers asks which it is.
    # kvslim_one_device: machine code for one of them, which drivers of others compile again.
    add_library(kvslim_devices INTERFACE)
    add_library(kvslim_one_device INTERFACE)
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES OFF)
      target_compile_options(kvslim_devices INTERFACE
        "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode arch=compute_80,code=[sm_80,sm_90,sm_120]>")
      target_compile_options(kvslim_one_device INTERFACE
        "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode arch=compute_80,code=[sm_90,compute_80]>")
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(KVSLIM_HAS_CUDA ON)
  elseif(KVSLIM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "KVSLIM_CUDA=ON, but no CUDA compiler was found")
  endif()
endif()

include(cmake/against.cmake)

include(FetchContent)
# kvslim_package(NAME GIT_REPOSITORY url GIT_TAG tag TARGET target): the system's package, or the
# sources.
function(kvslim_package name url tag target)
  find_package(${name} QUIET)
  if(NOT TARGET ${target})
    message(STATUS "${name} is not installed; fetching ${tag}")
    FetchContent_Declare(${name} GIT_REPOSITORY ${url} GIT_TAG ${tag} GIT_SHALLOW ON)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_GTEST_TESTS OFF)
    FetchContent_MakeAvailable(${name})
  endif()
endfunction()

# kvslim_batched_sources(TARGET SIZE SOURCE...): adds sources (absolute paths) to a program, SIZE of them to a unit, so that
# what they all instantiate is compiled once. KVSLIM_BATCHES=OFF compiles each by itself.
option(KVSLIM_BATCHES "Compile several tests or benchmarks as one unit" ON)
function(kvslim_batched_sources target size)
  if(NOT KVSLIM_BATCHES)
    target_sources(${target} PRIVATE ${ARGN})
    return()
  endif()
  list(LENGTH ARGN count)
  set(number 0)
  set(begin 0)
  while(begin LESS count)
    list(SUBLIST ARGN ${begin} ${size} batch)
    set(unit ${CMAKE_CURRENT_BINARY_DIR}/${target}_${number}.cpp)
    add_custom_command(OUTPUT ${unit}
      COMMAND ${CMAKE_COMMAND} "-DUNIT=${unit}" "-DSOURCES=${batch}" -P ${PROJECT_SOURCE_DIR}/cmake/batch_unit.cmake
      DEPENDS ${batch} ${PROJECT_SOURCE_DIR}/cmake/batch_unit.cmake VERBATIM)
    target_sources(${target} PRIVATE ${unit})
    math(EXPR begin "${begin} + ${size}")
    math(EXPR number "${number} + 1")
  endwhile()
endfunction()
