# Finds LibTorch, the C++ side of PyTorch, in an unpacked libtorch or a PyPI wheel: the target LibTorch::LibTorch.
# CMAKE_PREFIX_PATH names the directory with torch's include/ and lib/, or what Python gives as
# torch.utils.cmake_prefix_path.
#
# Torch's own TorchConfig.cmake is not used. For a torch that was built with CUDA it enables the CUDA language,
# runs nvcc, changes global flags and stops the configure where it finds no toolkit; using torch needs none of it.
find_path(LibTorch_DIRECTORY NAMES include/torch/headeronly/version.h PATH_SUFFIXES ../..)
mark_as_advanced(LibTorch_DIRECTORY)
if(LibTorch_DIRECTORY)
  get_filename_component(LibTorch_DIRECTORY "${LibTorch_DIRECTORY}" ABSOLUTE)
  file(STRINGS "${LibTorch_DIRECTORY}/include/torch/headeronly/version.h" LibTorch_VERSION
       REGEX "TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+$")
  list(TRANSFORM LibTorch_VERSION REPLACE "[^0-9]" "")
  list(JOIN LibTorch_VERSION "." LibTorch_VERSION)
endif()

# libtorch.so holds no code of its own: it names the libraries of torch's device backends, which register
# themselves when loaded. So it is linked although nothing in it is called.
foreach(library torch torch_cpu c10)
  find_library(LibTorch_${library}_LIBRARY NAMES ${library} HINTS "${LibTorch_DIRECTORY}/lib" NO_DEFAULT_PATH)
  mark_as_advanced(LibTorch_${library}_LIBRARY)
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch
  REQUIRED_VARS LibTorch_DIRECTORY LibTorch_torch_LIBRARY LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY
  VERSION_VAR LibTorch_VERSION)

# The wheel's libraries export parts of the C++ library that they were built with (std::filesystem among them). The
# system's C++ library comes first, or programs would call those parts, which crash in a program of another compiler.
if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(
    LibTorch::LibTorch INTERFACE "${LibTorch_DIRECTORY}/include"
                                 "${LibTorch_DIRECTORY}/include/torch/csrc/api/include")
  target_link_libraries(
    LibTorch::LibTorch
    INTERFACE stdc++ "-Wl,--push-state,--no-as-needed" "${LibTorch_torch_LIBRARY}" "-Wl,--pop-state"
              "${LibTorch_torch_cpu_LIBRARY}" "${LibTorch_c10_LIBRARY}")
endif()
