# SPDX-License-Identifier: Apache-2.0
# The GPU kernels: found compiler -> images -> one C file that holds them all. Sets W4A16_CUDA (ON or OFF), and with it
# W4A16_CUDA_INCLUDE (cuda.h), W4A16_CUDA_EMBEDDED (the C file) and W4A16_CUDA_IMAGES (what it embeds). Nothing of CUDA is linked.
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

option(W4A16_RACECHECK "Build the sm90 kernels so that compute-sanitizer's racecheck can follow them; slower" OFF)
set(W4A16_KERNEL_CACHE "" CACHE PATH "Where build folders share compiled kernels; empty: nowhere")
set(racecheck)
if(W4A16_RACECHECK)
  set(racecheck -DW4_EVERY_LANE_ARRIVES)
endif()

set(kernels ${PROJECT_SOURCE_DIR}/kernels)
set(image_dir ${PROJECT_BINARY_DIR}/images)
file(MAKE_DIRECTORY ${image_dir})
set(images)
set(embedded "/* Made by cmake/cuda.cmake. */\n#include \"backend/cuda/device.h\"\n\n")
set(table)

# How images are packed. A driver takes as long to load one as it is large and slow to unpack; newer compilers have a way to
# pack that is fast to unpack, but half as good. So that the library stays small, that and an image for each entry point are
# for Hopper, whose kernels are the most and whose plans load several.
set(compress "-Xfatbin;-compress-all")
execute_process(COMMAND ${W4A16_NVCC} --help OUTPUT_VARIABLE nvcc_help ERROR_QUIET)
set(compress_fast ${compress})
if(nvcc_help MATCHES "compress-mode")
  list(APPEND compress_fast --compress-mode=speed)
endif()

# w4a16_kernel(NAME SOURCE CODE... [ENTRIES ENTRY...] [FLAGS FLAG...]): compile SOURCE for each CODE (sm_80, ..., or
# compute_80: PTX) and embed it as NAME for CODE. ENTRIES: its entry points, each of which has an image of its own on 9.0
# (images/NAME.CODE.0.fatbin, ...); on others, and without, one image has all.
function(w4a16_kernel name source)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "ENTRIES;FLAGS")
  foreach(code IN LISTS arg_UNPARSED_ARGUMENTS)
    string(REGEX REPLACE "^sm_" "compute_" virtual ${code})
    set(entries)
    if(code MATCHES "^sm_90")
      set(entries ${arg_ENTRIES})
    endif()
    set(packed ${compress})
    if(code STREQUAL "sm_90a")
      set(packed ${compress_fast})
    endif()
    set(files)
    set(data)
    if(entries)
      list(LENGTH entries count)
      math(EXPR last "${count} - 1")
      foreach(i RANGE ${last})
        list(APPEND files ${image_dir}/${name}.${code}.${i}.fatbin)
        list(APPEND data w4_image_${name}_${code}_${i})
      endforeach()
    else()
      set(files ${image_dir}/${name}.${code}.fatbin)
      set(data w4_image_${name}_${code})
    endif()
    list(GET files 0 first)
    set(flags -gencode arch=${virtual},code=${code} -O3 -std=c++17 --ptxas-options=-v
      -I${kernels}/common -I${kernels} ${arg_FLAGS})
    add_custom_command(OUTPUT ${files}
      COMMAND ${CMAKE_COMMAND} -DNVCC=${W4A16_NVCC} -DKERNELS=${kernels} -DSOURCE=${kernels}/${source} "-DIMAGES=${files}"
        -DLOG=${image_dir}/${name}.${code}.log -DDEPFILE=${first}.d "-DFLAGS=${flags}" "-DENTRIES=${entries}"
        "-DCOMPRESS=${packed}" -DCACHE=${W4A16_KERNEL_CACHE} -P ${PROJECT_SOURCE_DIR}/cmake/compile_kernel.cmake
      DEPENDS ${kernels}/${source} ${PROJECT_SOURCE_DIR}/cmake/compile_kernel.cmake
      DEPFILE ${first}.d
      COMMENT "Compiling kernel ${name} for ${code}" VERBATIM)
    list(APPEND images ${files})
    foreach(file symbol IN ZIP_LISTS files data)
      string(APPEND embedded
        "__asm__(\".pushsection .rodata\\n.balign 64\\n.hidden ${symbol}\\n.globl ${symbol}\\n\"\n"
        "        \"${symbol}:\\n.incbin \\\"${file}\\\"\\n.popsection\\n\");\n"
        "extern const char ${symbol}[];\n")
    endforeach()
    if(NOT entries AND arg_ENTRIES)
      string(REGEX REPLACE "[^;]+" "${data}" data "${arg_ENTRIES}") # the same image for each
    endif()
    list(JOIN data ", " data)
    string(APPEND table "    {\"${name}\", \"${code}\", {${data}}},\n")
  endforeach()
  set(images ${images} PARENT_SCOPE)
  set(embedded ${embedded} PARENT_SCOPE)
  set(table ${table} PARENT_SCOPE)
endfunction()

# The entry points of a config, in the order of w4_cuda_image.
function(w4a16_entries name float_zeros entries)
  set(suffixes fp16 bf16 fp16_integer_zeros bf16_integer_zeros)
  if(float_zeros EQUAL 1)
    list(APPEND suffixes fp16_float_zeros bf16_float_zeros)
  endif()
  list(TRANSFORM suffixes PREPEND w4_${name}_)
  set(${entries} ${suffixes} PARENT_SCOPE)
endfunction()

# What kernels that run on every GPU are compiled for; src/backend/cuda/architecture.c says which GPU takes which.
set(everywhere sm_80 sm_86 sm_89 sm_90 compute_80)

set(definitions ${kernels}/sm90/kernels.def ${kernels}/sm80/kernels.def)
set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${definitions})
set(lines)
foreach(definition IN LISTS definitions)
  file(STRINGS ${definition} more REGEX "^W4_SM[89]0_[A-Z_]+\\(")
  list(APPEND lines ${more})
endforeach()
foreach(line IN LISTS lines)
  string(REGEX REPLACE "[(), ]+" ";" fields "${line}")
  list(GET fields 0 kind)
  list(GET fields 1 name)
  list(GET fields 2 tile_n)
  list(GET fields 3 tile_m)
  list(GET fields 4 tile_k)
  set(flags_of_config -DW4_CONFIG_NAME=${name} -DW4_TILE_N=${tile_n} -DW4_TILE_M=${tile_m} -DW4_TILE_K=${tile_k})
  if(kind MATCHES "^W4_SM90_(KERNEL|ANY_GROUP)$")
    set(any_group 0)
    if(kind STREQUAL "W4_SM90_ANY_GROUP")
      set(any_group 1)
    endif()
    list(GET fields 5 warpgroups)
    list(GET fields 6 cluster)
    list(GET fields 7 pingpong)
    list(GET fields 8 resident)
    list(GET fields 9 float_zeros)
    list(GET fields 10 split)
    list(GET fields 11 parts)
    w4a16_entries(${name} ${float_zeros} entries)
    w4a16_kernel(${name} sm90/gemm.cu sm_90a ENTRIES ${entries} FLAGS ${flags_of_config} -DW4_WARPGROUPS=${warpgroups} -DW4_CLUSTER=${cluster}
      -DW4_PINGPONG=${pingpong} -DW4_RESIDENT=${resident} -DW4_FLOAT_ZEROS=${float_zeros} -DW4_ANY_GROUP=${any_group}
      -DW4_SPLIT=${split} -DW4_PARTS=${parts} ${racecheck})
  elseif(kind MATCHES "^W4_SM80_(KERNEL|ANY_GROUP)$")
    set(any_group 0)
    if(kind STREQUAL "W4_SM80_ANY_GROUP")
      set(any_group 1)
    endif()
    list(GET fields 5 warps)
    list(GET fields 6 warps_m)
    list(GET fields 7 warps_k)
    list(GET fields 8 resident)
    list(GET fields 9 float_zeros)
    list(APPEND flags_of_config -DW4_WARPS=${warps} -DW4_WARPS_M=${warps_m} -DW4_WARPS_K=${warps_k}
      -DW4_RESIDENT=${resident} -DW4_FLOAT_ZEROS=${float_zeros} -DW4_ANY_GROUP=${any_group})
    w4a16_entries(${name} ${float_zeros} entries)
    w4a16_kernel(${name} sm80/gemm.cu ${everywhere} ENTRIES ${entries} FLAGS ${flags_of_config})
    list(APPEND W4A16_SM80_KERNELS ${name}) # the tests compile them, too
    set(W4A16_SM80_FLAGS_${name} ${flags_of_config})
  elseif(kind STREQUAL "W4_SM80_DECODE")
    list(GET fields 4 warps)
    list(GET fields 5 row_warps)
    list(GET fields 6 stages)
    list(GET fields 7 resident)
    set(flags_of_config -DW4_CONFIG_NAME=${name} -DW4_TILE_N=${tile_n} -DW4_TILE_M=${tile_m} -DW4_WARPS=${warps}
      -DW4_ROW_WARPS=${row_warps} -DW4_STAGES=${stages} -DW4_RESIDENT=${resident} -DW4_FLOAT_ZEROS=1)
    w4a16_entries(${name} 1 entries)
    w4a16_kernel(${name} sm80/decode.cu ${everywhere} ENTRIES ${entries} FLAGS ${flags_of_config})
    list(APPEND W4A16_SM80_KERNELS ${name})
    set(W4A16_SM80_FLAGS_${name} ${flags_of_config})
  else()
    message(FATAL_ERROR "${definitions}: cannot read: ${line}")
  endif()
endforeach()
w4a16_kernel(gather common_gpu/gather.cu ${everywhere})
w4a16_kernel(pack common_gpu/pack.cu ${everywhere})
w4a16_kernel(ceilings common_gpu/ceilings.cu ${everywhere} sm_90a)

set(W4A16_CUDA_EMBEDDED ${image_dir}/embedded.c)
string(APPEND embedded "\nconst w4_cuda_image w4_cuda_images[] = {\n${table}    {0, 0, {0}},\n};\n")
file(CONFIGURE OUTPUT ${W4A16_CUDA_EMBEDDED} CONTENT "${embedded}" @ONLY)
set(W4A16_CUDA_IMAGES ${images})
add_custom_target(w4a16_images DEPENDS ${images})
