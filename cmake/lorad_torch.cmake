# LibTorch from the PyPI wheel, without find_package(Torch), which wants a system CUDA toolkit.
# A CPU program needs libtorch_cpu and libc10 alone; the wheel's rpath finds the NVIDIA runtime beside it.
set(LORAD_VENV ${CMAKE_SOURCE_DIR}/.venv CACHE PATH "The virtual environment that scripts/setup made")
if(LORAD_TORCH_FREE)
  return()
endif()
file(GLOB LORAD_TORCH_DIR ${LORAD_VENV}/lib/python3*/site-packages/torch)
if(NOT LORAD_TORCH_DIR)
  message(FATAL_ERROR "no torch in ${LORAD_VENV}: run scripts/setup first")
endif()
# Headers by the path inside of the clone, which ccache makes relative, so that clones share what they compile.
set(torch_include ${LORAD_TORCH_DIR}/include)
file(REAL_PATH ${LORAD_TORCH_DIR} LORAD_TORCH_DIR)
add_library(torch_cpu INTERFACE)
# The wheel carries protobuf headers of its own; last in the search order they cannot shadow the system's.
target_compile_options(torch_cpu INTERFACE
  "SHELL:-idirafter ${torch_include}" "SHELL:-idirafter ${torch_include}/torch/csrc/api/include")
target_link_directories(torch_cpu INTERFACE ${LORAD_TORCH_DIR}/lib)
target_link_options(torch_cpu INTERFACE -Wl,-rpath,${LORAD_TORCH_DIR}/lib
  -Wl,-rpath-link,${LORAD_TORCH_DIR}/../nvidia/cu13/lib)
target_link_libraries(torch_cpu INTERFACE ${LORAD_TORCH_DIR}/lib/libtorch_cpu.so ${LORAD_TORCH_DIR}/lib/libc10.so)
