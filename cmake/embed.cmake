# Script mode, see lram_embed in targets.cmake.
string(REPLACE "," ";" FILES "${FILES}")
set(arrays "")
set(table "")
set(index 0)
foreach(file IN LISTS FILES)
  file(READ ${BASE}/${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND arrays "const unsigned char kBytes${index}[] = {${bytes}};\n")
  string(APPEND table "    {\"${file}\", {kBytes${index}, sizeof(kBytes${index})}},\n")
  math(EXPR index "${index} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"lram/core/embedded_file.h\"\n\nnamespace {\n${arrays}}\n\n"
  "extern const lram::EmbeddedFile ${VARIABLE}[];\n"
  "const lram::EmbeddedFile ${VARIABLE}[] = {\n${table}    {nullptr, {}}};\n")
