# Writes OUTPUT, a C++ file with FUNCTION (app/gateway/embedded.hpp), which has FILES, in FOLDER, as they are and
# compressed by gzip.
find_program(GZIP gzip REQUIRED)
set(arrays "")
set(table "")
foreach(file ${FILES})
  string(MAKE_C_IDENTIFIER ${file} name)
  get_filename_component(extension ${file} LAST_EXT)
  execute_process(COMMAND ${GZIP} -9nc ${FOLDER}/${file} OUTPUT_FILE ${OUTPUT}.gz COMMAND_ERROR_IS_FATAL ANY)
  foreach(form plain gzip)
    if(form STREQUAL "plain")
      file(READ ${FOLDER}/${file} bytes HEX)
    else()
      file(READ ${OUTPUT}.gz bytes HEX)
    endif()
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
    string(APPEND arrays "constexpr unsigned char ${name}_${form}[] = {${bytes}};\n")
  endforeach()
  string(APPEND table "    {\"${file}\", \"${extension}\", text(${name}_plain), text(${name}_gzip)},\n")
endforeach()
file(REMOVE ${OUTPUT}.gz)
file(WRITE ${OUTPUT} "// Made by app/gateway/page/embed.cmake.
#include \"app/gateway/embedded.hpp\"

namespace jupiter {

namespace {
template <std::size_t N>
std::string_view text(const unsigned char (&bytes)[N]) {
  return {reinterpret_cast<const char*>(bytes), N};
}
${arrays}const EmbeddedFile files[] = {
${table}};
}  // namespace

std::span<const EmbeddedFile> ${FUNCTION}() {
  return files;
}

}  // namespace jupiter
")
