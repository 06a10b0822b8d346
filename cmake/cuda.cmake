# SPDX-License-Identifier: Apache-2.0
# The GPU kernels: found compiler -> cubins -> one C file that holds them all. Sets W4A16_CUDA (ON or OFF), and with it
# W4A16_CUDA_INCLUDE (cuda.h), W4A16_CUDA_EMBEDDED (the C file) and W4A16_CUDA_CUBINS (what it embeds). Nothing of CUDA is linked.
find_program(W4A16_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin
  DOC "CUDA compiler; without one the library is CPU-only")
set(W4A16_CUDA_INCLUDE W4A16_CUDA_INCLUDE-NOTFOUND)
if(W4A16_NVCC)
  get_filename_component(toolkit ${W4A16_NVCC} REALPATH)
  get_filename_component(toolkit ${toolkit} DIRECTORY)
  find_path(W4A16_CUDA_INCLUDE cuda.h HINTS ${toolkit}/../include PATHS ${toolkit}/../targets/x86_64-linux/include
    ${toolkit}/../targets/sbsa-linux/include NO_CACHE)
endif()
set(found OFF)
if(W4A16_CUDA_INCLUDE)
  set(found ON)
endif()
option(W4A16_CUDA "Build the CUDA backend (needs nvcc)" ${found})
if(W4A16_CUDA AND NOT found)
  message(FATAL_ERROR "W4A16_CUDA is ON, but nvcc and its cuda.h were not found; say where with -DW4A16_NVCC=...")
endif()
if(NOT W4A16_CUDA)
  return()
endif()

set(kernels ${PROJECT_SOURCE_DIR}/kernels)
set(cubin_dir ${PROJECT_BINARY_DIR}/cubins)
file(MAKE_DIRECTORY ${cubin_dir})
set(cubins)
set(embedded "/* Made by cmake/cuda.cmake. */\n#include \"backend/cuda/device.h\"\n\n")
set(table)

# w4a16_cubin(NAME SOURCE ARCHITECTURE [FLAG...]): compile SOURCE to cubins/NAME.cubin, embed it as NAME.
macro(w4a16_cubin name source architecture)
  set(cubin ${cubin_dir}/${name}.cubin)
  set(flags -gencode arch=compute_${architecture},code=sm_${architecture} -O3 -std=c++17 --ptxas-options=-v
    -I${kernels}/common -I${kernels} ${ARGN})
  add_custom_command(OUTPUT ${cubin}
    COMMAND ${CMAKE_COMMAND} -DNVCC=${W4A16_NVCC} -DSOURCE=${kernels}/${source} -DCUBIN=${cubin}
      -DLOG=${cubin_dir}/${name}.log -DDEPFILE=${cubin_dir}/${name}.d "-DFLAGS=${flags}"
      -P ${PROJECT_SOURCE_DIR}/cmake/compile_kernel.cmake
    DEPENDS ${kernels}/${source} ${PROJECT_SOURCE_DIR}/cmake/compile_kernel.cmake
    DEPFILE ${cubin_dir}/${name}.d
    COMMENT "Compiling kernel ${name}" VERBATIM)
  list(APPEND cubins ${cubin})
  string(APPEND embedded
    "__asm__(\".pushsection .rodata\\n.balign 64\\n.hidden w4_cubin_${name}\\n.globl w4_cubin_${name}\\n\"\n"
    "        \"w4_cubin_${name}:\\n.incbin \\\"${cubin}\\\"\\n.popsection\\n\");\n"
    "extern const char w4_cubin_${name}[];\n")
  string(APPEND table "    {\"${name}\", w4_cubin_${name}},\n")
endmacro()

set(definitions ${kernels}/sm90/kernels.def)
set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${definitions})
file(STRINGS ${definitions} lines REGEX "^W4_SM90_[A-Z_]+\\(")
foreach(line IN LISTS lines)
  string(REGEX REPLACE "[(), ]+" ";" fields "${line}")
  list(GET fields 0 kind)
  list(GET fields 1 name)
  list(GET fields 2 tile_n)
  list(GET fields 3 tile_m)
  list(GET fields 4 tile_k)
  set(flags_of_config -DW4_CONFIG_NAME=${name} -DW4_TILE_N=${tile_n} -DW4_TILE_M=${tile_m} -DW4_TILE_K=${tile_k})
  if(kind STREQUAL "W4_SM90_KERNEL")
    list(GET fields 5 warpgroups)
    list(GET fields 6 cluster)
    list(GET fields 7 pingpong)
    list(GET fields 8 resident)
    list(GET fields 9 float_zeros)
    w4a16_cubin(${name} sm90/gemm.cu 90a ${flags_of_config} -DW4_WARPGROUPS=${warpgroups} -DW4_CLUSTER=${cluster}
      -DW4_PINGPONG=${pingpong} -DW4_RESIDENT=${resident} -DW4_FLOAT_ZEROS=${float_zeros})
  elseif(kind STREQUAL "W4_SM90_ANY_GROUP")
    list(GET fields 5 stages)
    w4a16_cubin(${name} sm90/gemm_any_group.cu 90a ${flags_of_config} -DW4_STAGES=${stages} -DW4_FLOAT_ZEROS=1)
  else()
    message(FATAL_ERROR "${definitions}: cannot read: ${line}")
  endif()
endforeach()
w4a16_cubin(gather common_gpu/gather.cu 90a)
w4a16_cubin(pack common_gpu/pack.cu 90a)
w4a16_cubin(ceilings common_gpu/ceilings.cu 90a)

set(W4A16_CUDA_EMBEDDED ${cubin_dir}/embedded.c)
string(APPEND embedded "\nconst w4_cuda_cubin w4_cuda_cubins[] = {\n${table}    {0, 0},\n};\n")
file(CONFIGURE OUTPUT ${W4A16_CUDA_EMBEDDED} CONTENT "${embedded}" @ONLY)
set(W4A16_CUDA_CUBINS ${cubins})
add_custom_target(w4a16_cubins DEPENDS ${cubins})
