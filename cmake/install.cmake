# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(DIRECTORY include/kvslim DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS kvslim kvslim_lowrank kvslim_cuda EXPORT kvslimTargets)
install(EXPORT kvslimTargets NAMESPACE kvslim::
  DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/kvslim)
configure_package_config_file(cmake/kvslimConfig.cmake.in kvslimConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/kvslim)
write_basic_package_version_file(kvslimConfigVersion.cmake COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kvslimConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/kvslimConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/kvslim)
configure_file(cmake/kvslim.pc.in kvslim.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kvslim.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
