# liblorad_cuda.so: the CUDA operators, which `lorad` opens where there is a device. Compiled by nvcc from the PyPI
# wheels (scripts/setup --cuda); neither a GPU nor a system toolkit is needed. Off by default: nothing else depends on it.
option(LORAD_CUDA "Also build liblorad_cuda.so" OFF)
if(NOT LORAD_CUDA)
  return()
endif()
if(DEFINED ENV{LORAD_CACHE})
  set(cache $ENV{LORAD_CACHE})
else()
  set(cache $ENV{HOME}/.cache/lorad)
endif()
set(LORAD_CUDA_VENV ${cache}/cuda-venv CACHE PATH "The environment that scripts/setup --cuda made")
file(GLOB site_packages ${LORAD_CUDA_VENV}/lib/python3*/site-packages)
set(LORAD_CUDA_HOME ${site_packages}/nvidia/cu13)
if(NOT EXISTS ${LORAD_CUDA_HOME}/bin/nvcc)
  message(FATAL_ERROR "no nvcc in ${LORAD_CUDA_VENV}: run scripts/setup --cuda first")
endif()

# Code for A100 and H100/H200, and PTX for what comes after.
set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING "Architectures of liblorad_cuda.so")
set(CMAKE_CUDA_COMPILER ${LORAD_CUDA_HOME}/bin/nvcc)
set(CMAKE_CUDA_FLAGS_INIT -L${LORAD_CUDA_HOME}/lib)
set(ENV{LIBRARY_PATH} ${LORAD_CUDA_HOME}/lib)  # the linker's, while CMake tries the compiler
if(LORAD_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${LORAD_CCACHE})
endif()
enable_language(CUDA)
# CMake 3.25 does not know that this nvcc has C++20.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)

# FlashInfer's headers, with those of CCCL and CUTLASS that its wheel brings, which come before CUDA's own.
set(headers ${cache}/flashinfer)
if(NOT EXISTS ${headers}/include/flashinfer)
  message(FATAL_ERROR "no FlashInfer headers in ${headers}: run scripts/setup --cuda first")
endif()
add_library(flashinfer INTERFACE)
target_include_directories(flashinfer BEFORE INTERFACE
  ${headers}/cccl/thrust ${headers}/cccl/cub ${headers}/cccl/libcudacxx/include ${headers}/include ${headers}/cutlass/include)
target_compile_options(flashinfer INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -w>)

# The wheel's rpath finds NVIDIA's libraries on a host that has them; here libtorch_cuda's own are not there.
add_library(torch_cuda INTERFACE)
target_include_directories(torch_cuda SYSTEM INTERFACE ${LORAD_CUDA_HOME}/include)
target_link_libraries(torch_cuda INTERFACE torch_cpu ${LORAD_TORCH_DIR}/lib/libc10_cuda.so
  -Wl,--no-as-needed ${LORAD_TORCH_DIR}/lib/libtorch_cuda.so -Wl,--as-needed ${LORAD_CUDA_HOME}/lib/libcudart.so.13)
target_link_options(torch_cuda INTERFACE -Wl,--allow-shlib-undefined)
