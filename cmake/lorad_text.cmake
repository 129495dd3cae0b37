# Targets lorad_tokenizers (Rust) and lorad_sentencepiece, which scripts/build-text built into the cache.
file(GLOB_RECURSE LORAD_TEXT_SOURCES CONFIGURE_DEPENDS
  ${CMAKE_SOURCE_DIR}/model/text/rust/* ${CMAKE_SOURCE_DIR}/model/text/sentencepiece/*)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${LORAD_TEXT_SOURCES} ${CMAKE_SOURCE_DIR}/scripts/build-text)
execute_process(COMMAND ${CMAKE_SOURCE_DIR}/scripts/build-text --folders
  OUTPUT_VARIABLE LORAD_TEXT_FOLDERS OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" LORAD_TEXT_FOLDERS "${LORAD_TEXT_FOLDERS}")
list(GET LORAD_TEXT_FOLDERS 0 LORAD_TOKENIZERS_DIR)
list(GET LORAD_TEXT_FOLDERS 1 LORAD_SENTENCEPIECE_DIR)
foreach(file ${LORAD_TOKENIZERS_DIR}/liblorad_text.a ${LORAD_SENTENCEPIECE_DIR}/liblorad_sentencepiece.so)
  if(NOT EXISTS ${file})
    message(FATAL_ERROR "no ${file}: run scripts/setup first")
  endif()
endforeach()

add_library(lorad_tokenizers STATIC IMPORTED GLOBAL)
set_target_properties(lorad_tokenizers PROPERTIES
  IMPORTED_LOCATION ${LORAD_TOKENIZERS_DIR}/liblorad_text.a
  INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")

# A copy in the build folder, so that a build runs without the cache: bin/ and tests/ look in ../lib.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
configure_file(${LORAD_SENTENCEPIECE_DIR}/liblorad_sentencepiece.so ${CMAKE_BINARY_DIR}/lib/liblorad_sentencepiece.so COPYONLY)
add_library(lorad_sentencepiece SHARED IMPORTED GLOBAL)
set_target_properties(lorad_sentencepiece PROPERTIES
  IMPORTED_LOCATION ${CMAKE_BINARY_DIR}/lib/liblorad_sentencepiece.so)
