# What examples and tests are compiled with. Their time goes to the layers and to torch: -O1 halves what they take to
# compile. torch's headers are precompiled once for all of them.
set(TIERSTREAM_ON_TOP_OPTIONS $<$<CONFIG:RelWithDebInfo>:-O1>)

if(TIERSTREAM_HAS_TORCH)
  file(GENERATE OUTPUT torch_headers.cpp CONTENT "")
  add_library(tierstream_torch_headers OBJECT EXCLUDE_FROM_ALL ${CMAKE_CURRENT_BINARY_DIR}/torch_headers.cpp)
  target_compile_options(tierstream_torch_headers PRIVATE ${TIERSTREAM_ON_TOP_OPTIONS})
  target_link_libraries(tierstream_torch_headers PRIVATE tierstream::torch)
  target_precompile_headers(tierstream_torch_headers PRIVATE <torch/nn.h>)
endif()
