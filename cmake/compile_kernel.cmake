# SPDX-License-Identifier: Apache-2.0
# Compile one kernel file to fatbins that each hold code for one architecture (or PTX), compressed to about a third; keep the
# compiler's log, and fail where the kernel would run but badly: registers spilled to memory, or wgmma instructions that
# ptxas made wait for one another (C7510 and its kin).
#
#   cmake -DNVCC=... -DKERNELS=kernels -DSOURCE=x.cu "-DIMAGES=x.fatbin" -DLOG=x.log -DDEPFILE=x.d -DVIRTUAL=compute_80
#         "-DCODES=sm_80;sm_86" "-DFLAGS=-O3;..." ["-DENTRIES=a;b"] ["-DCOMPRESS=-Xfatbin;-compress-all"] [-DCACHE=folder]
#         -P compile_kernel.cmake
#
# The C++ is compiled once, to PTX for VIRTUAL; each image is what ptxas makes of that, in the order of IMAGES: for each of
# CODES with all entry points; or, with ENTRIES, for the one code with one of these each, as a driver takes as long to load
# an image as it is large. Without VIRTUAL one image has what FLAGS say.
# CACHE: build folders that share it compile each kernel once; what a kernel becomes depends on the files beside it and in
# the common folders, the flags and the compiler.
if(NOT COMPRESS)
  set(COMPRESS -Xfatbin -compress-all)
endif()
if(CACHE)
  get_filename_component(folder ${SOURCE} DIRECTORY)
  file(GLOB files ${folder}/*.cu ${folder}/*.cuh ${folder}/*.h ${KERNELS}/common/* ${KERNELS}/common_gpu/*)
  list(REMOVE_DUPLICATES files)
  list(SORT files)
  execute_process(COMMAND ${NVCC} --version OUTPUT_VARIABLE key)
  string(APPEND key "${SOURCE} ${VIRTUAL} ${CODES} ${FLAGS} ${ENTRIES} ${COMPRESS}")
  string(REPLACE "${KERNELS}" "" key "${key}") # wherever this tree stands
  foreach(file IN LISTS files)
    file(SHA256 ${file} hash)
    string(APPEND key " ${hash}")
  endforeach()
  string(SHA256 key "${key}")
  set(cached ${CACHE}/${key})
endif()
file(REMOVE ${IMAGES})
list(GET IMAGES 0 first)
list(LENGTH IMAGES count)
math(EXPR last "${count} - 1")

# run(ARGUMENT...): nvcc, its words appended to `log`.
set(log)
macro(run)
  execute_process(COMMAND ${NVCC} ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
  string(APPEND log "${output}")
  if(NOT result EQUAL 0)
    file(WRITE ${LOG} "${log}")
    message(FATAL_ERROR "nvcc failed on ${SOURCE}:\n${output}")
  endif()
endmacro()

if(NOT CACHE OR NOT EXISTS ${cached}.${last}.fatbin)
  set(dependencies -MD -MF ${DEPFILE} -MT __image__)
  if(NOT VIRTUAL)
    run(-fatbin ${COMPRESS} ${FLAGS} ${dependencies} -o ${first} ${SOURCE})
  else()
    run(-ptx -gencode arch=${VIRTUAL},code=${VIRTUAL} ${FLAGS} ${dependencies} -o ${first}.ptx ${SOURCE})
    if(ENTRIES)
      foreach(image entry IN ZIP_LISTS IMAGES ENTRIES)
        run(-fatbin ${COMPRESS} -gencode arch=${VIRTUAL},code=${CODES} ${FLAGS} --ptxas-options=--entry=${entry}
          -o ${image} ${first}.ptx)
      endforeach()
    else()
      foreach(image code IN ZIP_LISTS IMAGES CODES)
        run(-fatbin ${COMPRESS} -gencode arch=${VIRTUAL},code=${code} ${FLAGS} -o ${image} ${first}.ptx)
      endforeach()
    endif()
    file(REMOVE ${first}.ptx)
  endif()
  file(WRITE ${LOG} "${log}")
  string(REGEX MATCHALL "[^\n]*[1-9][0-9]* bytes spill (stores|loads)[^\n]*" spills "${log}")
  string(REGEX MATCHALL "[^\n]*C75[0-9][0-9][^\n]*" serialised "${log}")
  if(spills OR serialised)
    file(REMOVE ${IMAGES})
    message(
      FATAL_ERROR "${SOURCE}: spilled registers or serialised wgmma; the whole log is ${LOG}\n${spills}\n${serialised}")
  endif()
  if(CACHE)
    # The images last, and under other names until they are whole: another build may be looking.
    file(MAKE_DIRECTORY ${CACHE})
    file(COPY_FILE ${LOG} ${cached}.log)
    file(COPY_FILE ${DEPFILE} ${cached}.d)
    foreach(i RANGE ${last})
      list(GET IMAGES ${i} image)
      string(RANDOM LENGTH 16 mark)
      file(COPY_FILE ${image} ${cached}.${mark})
      file(RENAME ${cached}.${mark} ${cached}.${i}.fatbin)
    endforeach()
  endif()
else()
  file(COPY_FILE ${cached}.log ${LOG})
  file(COPY_FILE ${cached}.d ${DEPFILE})
  foreach(i RANGE ${last})
    list(GET IMAGES ${i} image)
    file(COPY_FILE ${cached}.${i}.fatbin ${image})
  endforeach()
endif()
file(READ ${DEPFILE} dependencies)
string(REPLACE "__image__" "${first}" dependencies "${dependencies}")
file(WRITE ${DEPFILE} "${dependencies}")
