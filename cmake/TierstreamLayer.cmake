# tierstream_layer(NAME SOURCES ... PUBLIC_LINKS ... PRIVATE_LINKS ...)
# One library per folder. Its public headers are <folder>/include/**.h; a check of every layer compiles each of
# them by itself (VERIFY_INTERFACE_HEADER_SETS), so that headers stay self-contained.
function(tierstream_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC_LINKS;PRIVATE_LINKS" ${ARGN})
  set(target tierstream_${name})
  add_library(${target} STATIC ${ARG_SOURCES})
  add_library(tierstream::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} VERIFY_INTERFACE_HEADER_SETS ON
                                             POSITION_INDEPENDENT_CODE ON)
  if(NOT TIERSTREAM_SANITIZE)
    set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)  # each source includes what it needs
  endif()
  target_compile_features(${target} PUBLIC cxx_std_20)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/include/*.h)
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${CMAKE_CURRENT_SOURCE_DIR}/include FILES ${headers})
  target_link_libraries(${target} PUBLIC ${ARG_PUBLIC_LINKS} PRIVATE ${ARG_PRIVATE_LINKS})
  set_property(GLOBAL APPEND PROPERTY TIERSTREAM_LAYERS ${target})
endfunction()
