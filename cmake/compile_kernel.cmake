# SPDX-License-Identifier: Apache-2.0
# Compile one kernel file to a fatbin that holds code for one architecture (or PTX), compressed to about a quarter; keep
# the compiler's log, and fail where the kernel would run but badly: registers spilled to memory, or wgmma instructions
# that ptxas made wait for one another (C7510 and its kin).
#
#   cmake -DNVCC=... -DSOURCE=x.cu -DIMAGE=x.fatbin -DLOG=x.log -DDEPFILE=x.d "-DFLAGS=-O3;..." -P compile_kernel.cmake
file(REMOVE ${IMAGE})
execute_process(
  COMMAND ${NVCC} -fatbin -Xfatbin -compress-all ${FLAGS} -MD -MF ${DEPFILE} -MT ${IMAGE} -o ${IMAGE} ${SOURCE}
  OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
file(WRITE ${LOG} "${output}")
if(NOT result EQUAL 0)
  message(FATAL_ERROR "nvcc failed on ${SOURCE}:\n${output}")
endif()
string(REGEX MATCHALL "[^\n]*[1-9][0-9]* bytes spill (stores|loads)[^\n]*" spills "${output}")
string(REGEX MATCHALL "[^\n]*C75[0-9][0-9][^\n]*" serialised "${output}")
if(spills OR serialised)
  file(REMOVE ${IMAGE})
  message(FATAL_ERROR "${SOURCE}: spilled registers or serialised wgmma; the whole log is ${LOG}\n${spills}\n${serialised}")
endif()
