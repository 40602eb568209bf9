# cmake --install: programs, libraries, headers, and a package for find_package(lram), whose targets
# are lram::core, lram::envs, lram::datasets, lram::model and so on.
include(CMakePackageConfigHelpers)

get_property(libraries GLOBAL PROPERTY LRAM_LIBRARIES)
get_property(programs GLOBAL PROPERTY LRAM_PROGRAMS)
foreach(library IN LISTS libraries)
  string(REGEX REPLACE "^lram_" "" short ${library})
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${short})
endforeach()
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lram)

install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS ${libraries} EXPORT lram ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT lram NAMESPACE lram:: FILE lram_targets.cmake DESTINATION ${package_dir})
# Includes start at the root of the repository, in an installed tree too.
install(DIRECTORY lram envs datasets agents eval kernels DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lram
  FILES_MATCHING PATTERN "*.h" PATTERN "app" EXCLUDE)

configure_package_config_file(cmake/lram_config.cmake.in ${PROJECT_BINARY_DIR}/lram_config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lram_config_version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lram_config.cmake DESTINATION ${package_dir} RENAME lramConfig.cmake)
install(FILES ${PROJECT_BINARY_DIR}/lram_config_version.cmake DESTINATION ${package_dir}
  RENAME lramConfigVersion.cmake)
install(FILES cmake/dependencies.cmake DESTINATION ${package_dir})
