# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors

# An engine to compare with: off unless given, never fetched.
set(KVSLIM_AGAINST "" CACHE PATH
  "llama.cpp: its sources, a build of it, or where it is installed; or ik_llama.cpp's sources")

# kvslim_find_against(TARGET "HEADERS" "LIBRARIES"): makes TARGET of what a build or an installation
# holds, if all of it is there.
function(kvslim_find_against target headers libraries)
  set(places "${KVSLIM_AGAINST}")
  if(EXISTS "${KVSLIM_AGAINST}/CMakeCache.txt")
    file(STRINGS "${KVSLIM_AGAINST}/CMakeCache.txt" home REGEX "^CMAKE_HOME_DIRECTORY:INTERNAL=")
    string(REGEX REPLACE ".*=" "" home "${home}")
    list(APPEND places "${home}" "${home}/ggml")
  endif()
  set(directories "")
  foreach(header IN LISTS headers)
    unset(found)
    find_path(found ${header} PATHS ${places} PATH_SUFFIXES include NO_DEFAULT_PATH NO_CACHE)
    if(NOT found)
      return()
    endif()
    list(APPEND directories "${found}")
  endforeach()
  set(files "")
  foreach(library IN LISTS libraries)
    unset(found)
    find_library(found ${library} PATHS "${KVSLIM_AGAINST}"
      PATH_SUFFIXES bin lib lib64 src ggml/src ggml/src/ggml-cpu src/ggml-cpu
      NO_DEFAULT_PATH NO_CACHE)
    if(NOT found)
      return()
    endif()
    list(APPEND files "${found}")
  endforeach()
  find_package(Threads REQUIRED)
  find_package(OpenMP QUIET)
  add_library(${target} INTERFACE)
  target_include_directories(${target} SYSTEM INTERFACE ${directories})
  target_link_libraries(${target} INTERFACE ${files} $<TARGET_NAME_IF_EXISTS:OpenMP::OpenMP_CXX>
    Threads::Threads ${CMAKE_DL_LIBS})
endfunction()
