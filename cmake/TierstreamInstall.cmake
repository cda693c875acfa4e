# The installed package: one export set for what always exists, and one for each optional component, so that a
# project without a CUDA toolkit or LibTorch uses the rest of a package that was built with them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_directory ${CMAKE_INSTALL_LIBDIR}/cmake/tierstream)

# tierstream_install_component(NAME LAYER...): the layers that exist, as the export set tierstream-NAME.cmake.
function(tierstream_install_component name)
  get_property(layers GLOBAL PROPERTY TIERSTREAM_LAYERS)
  foreach(layer ${ARGN})
    if(NOT tierstream_${layer} IN_LIST layers)
      return()
    endif()
    install(TARGETS tierstream_${layer} EXPORT tierstream-${name} FILE_SET HEADERS)
  endforeach()
  install(EXPORT tierstream-${name} NAMESPACE tierstream:: DESTINATION ${package_directory})
endfunction()

tierstream_install_component(core io tiers streamer)
tierstream_install_component(cuda tiers_cuda)
tierstream_install_component(torch torch)

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/tierstreamConfig.cmake.in tierstreamConfig.cmake
                              INSTALL_DESTINATION ${package_directory})
write_basic_package_version_file(tierstreamConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tierstreamConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/tierstreamConfigVersion.cmake ${CMAKE_CURRENT_LIST_DIR}/FindLibTorch.cmake
        DESTINATION ${package_directory})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
