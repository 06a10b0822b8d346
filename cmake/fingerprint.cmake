# SPDX-License-Identifier: Apache-2.0
# A fingerprint of source files, for what was measured with them: OUT receives a header that defines NAME as the first 16
# digits of a hash of FILES (relative to ROOT, in order) and of EXTRA.
#
#   cmake -DOUT=x.h -DNAME=W4_X -DROOT=/project "-DFILES=a;b" [-DEXTRA=text] -P fingerprint.cmake
set(key "${EXTRA}")
foreach(file IN LISTS FILES)
  file(SHA256 ${ROOT}/${file} hash)
  string(APPEND key "\n${file} ${hash}")
endforeach()
string(SHA256 key "${key}")
string(SUBSTRING ${key} 0 16 key)
file(WRITE ${OUT} "/* Made by cmake/fingerprint.cmake. */\n#define ${NAME} \"${key}\"\n")
