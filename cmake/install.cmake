# SPDX-License-Identifier: Apache-2.0
# What `cmake --install` puts where: header, both libraries, pkg-config file, CMake package, licence (cli/ adds the
# command and its man page). The installed tree may be moved: every path in it is relative.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/w4a16)

set_target_properties(w4a16_shared PROPERTIES EXPORT_NAME w4a16)
add_library(w4a16::w4a16 ALIAS w4a16_shared)
add_library(w4a16::w4a16_static ALIAS w4a16_static)

# Two export sets: who links the shared library needs neither jansson nor OpenMP to be there.
install(TARGETS w4a16_shared EXPORT w4a16Targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} NAMELINK_COMPONENT development)
install(TARGETS w4a16_static EXPORT w4a16StaticTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT w4a16Targets NAMESPACE w4a16:: DESTINATION ${package_dir})
install(EXPORT w4a16StaticTargets NAMESPACE w4a16:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/w4a16Config.cmake.in
  ${PROJECT_BINARY_DIR}/w4a16Config.cmake INSTALL_DESTINATION ${package_dir})
# While the major version is 0, a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/w4a16ConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/w4a16Config.cmake ${PROJECT_BINARY_DIR}/w4a16ConfigVersion.cmake
  DESTINATION ${package_dir})

# For pkg-config --static: what the archive needs beyond jansson. gcc finds its OpenMP runtime by name; clang's is on
# no search path, so that the file itself is named.
set(private_libraries)
foreach(library IN LISTS OpenMP_C_LIB_NAMES)
  if(library STREQUAL "gomp")
    string(APPEND private_libraries "-lgomp ")
  elseif(NOT library STREQUAL "pthread")
    string(APPEND private_libraries "${OpenMP_${library}_LIBRARY} ")
  endif()
endforeach()
string(APPEND private_libraries "-lm -ldl -lpthread")
file(RELATIVE_PATH prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" prefix_from_pc "${prefix_from_pc}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/w4a16.pc.in ${PROJECT_BINARY_DIR}/w4a16.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/w4a16.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES ${PROJECT_SOURCE_DIR}/include/w4a16.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
