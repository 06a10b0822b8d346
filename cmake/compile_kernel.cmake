# SPDX-License-Identifier: Apache-2.0
# Compile one kernel file to a cubin, keep the compiler's log, and fail where the kernel would run but badly: registers
# spilled to memory, or wgmma instructions that ptxas made wait for one another (C7510 and its kin).
#
#   cmake -DNVCC=... -DSOURCE=x.cu -DCUBIN=x.cubin -DLOG=x.log -DDEPFILE=x.d "-DFLAGS=-O3;..." -P compile_kernel.cmake
file(REMOVE ${CUBIN})
execute_process(
  COMMAND ${NVCC} -cubin ${FLAGS} -MD -MF ${DEPFILE} -MT ${CUBIN} -o ${CUBIN} ${SOURCE}
  OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
file(WRITE ${LOG} "${output}")
if(NOT result EQUAL 0)
  message(FATAL_ERROR "nvcc failed on ${SOURCE}:\n${output}")
endif()
string(REGEX MATCHALL "[^\n]*[1-9][0-9]* bytes spill (stores|loads)[^\n]*" spills "${output}")
string(REGEX MATCHALL "[^\n]*C75[0-9][0-9][^\n]*" serialised "${output}")
if(spills OR serialised)
  file(REMOVE ${CUBIN})
  message(FATAL_ERROR "${SOURCE}: spilled registers or serialised wgmma; the whole log is ${LOG}\n${spills}\n${serialised}")
endif()
