# SPDX-License-Identifier: Apache-2.0
# Compile one kernel file to a fatbin that holds code for one architecture (or PTX), compressed to about a quarter; keep
# the compiler's log, and fail where the kernel would run but badly: registers spilled to memory, or wgmma instructions
# that ptxas made wait for one another (C7510 and its kin).
#
#   cmake -DNVCC=... -DKERNELS=kernels -DSOURCE=x.cu -DIMAGE=x.fatbin -DLOG=x.log -DDEPFILE=x.d "-DFLAGS=-O3;..."
#         [-DCACHE=folder] -P compile_kernel.cmake
#
# CACHE: build folders that share it compile each kernel once; what a kernel becomes depends on the files beside it and in
# the common folders, the flags and the compiler.
if(CACHE)
  get_filename_component(folder ${SOURCE} DIRECTORY)
  file(GLOB files ${folder}/*.cu ${folder}/*.cuh ${folder}/*.h ${KERNELS}/common/* ${KERNELS}/common_gpu/*)
  list(REMOVE_DUPLICATES files)
  list(SORT files)
  execute_process(COMMAND ${NVCC} --version OUTPUT_VARIABLE key)
  string(APPEND key "${SOURCE} ${FLAGS}")
  string(REPLACE "${KERNELS}" "" key "${key}") # wherever this tree stands
  foreach(file IN LISTS files)
    file(SHA256 ${file} hash)
    string(APPEND key " ${hash}")
  endforeach()
  string(SHA256 key "${key}")
  set(cached ${CACHE}/${key})
endif()
file(REMOVE ${IMAGE})

if(NOT CACHE OR NOT EXISTS ${cached}.fatbin)
  execute_process(
    COMMAND ${NVCC} -fatbin -Xfatbin -compress-all ${FLAGS} -MD -MF ${DEPFILE} -MT __image__ -o ${IMAGE} ${SOURCE}
    OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
  file(WRITE ${LOG} "${output}")
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "nvcc failed on ${SOURCE}:\n${output}")
  endif()
  string(REGEX MATCHALL "[^\n]*[1-9][0-9]* bytes spill (stores|loads)[^\n]*" spills "${output}")
  string(REGEX MATCHALL "[^\n]*C75[0-9][0-9][^\n]*" serialised "${output}")
  if(spills OR serialised)
    file(REMOVE ${IMAGE})
    message(
      FATAL_ERROR "${SOURCE}: spilled registers or serialised wgmma; the whole log is ${LOG}\n${spills}\n${serialised}")
  endif()
  if(CACHE)
    # The image last, and under another name until it is whole: another build may be looking.
    file(MAKE_DIRECTORY ${CACHE})
    file(COPY_FILE ${LOG} ${cached}.log)
    file(COPY_FILE ${DEPFILE} ${cached}.d)
    string(RANDOM LENGTH 16 mark)
    file(COPY_FILE ${IMAGE} ${cached}.${mark})
    file(RENAME ${cached}.${mark} ${cached}.fatbin)
  endif()
else()
  file(COPY_FILE ${cached}.log ${LOG})
  file(COPY_FILE ${cached}.d ${DEPFILE})
  file(COPY_FILE ${cached}.fatbin ${IMAGE})
endif()
file(READ ${DEPFILE} dependencies)
string(REPLACE "__image__" "${IMAGE}" dependencies "${dependencies}")
file(WRITE ${DEPFILE} "${dependencies}")
