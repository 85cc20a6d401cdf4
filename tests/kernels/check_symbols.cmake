# Fails where an object of an instruction set defines code that the linker may share with files for any processor
# (weak symbols: inline functions and templates outside anonymous namespaces).
foreach(object IN LISTS OBJECTS)
  if(object MATCHES "/(avx|neon)[a-z0-9_]*\\.cpp")
    execute_process(COMMAND ${NM} -C ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
    if(symbols MATCHES "[0-9a-f]+ ([WVuw]) ([^\n]*)")
      message(FATAL_ERROR "${object} shares ${CMAKE_MATCH_2}")
    endif()
    math(EXPR checked "${checked} + 1")
  endif()
endforeach()
if(NOT checked)
  message(FATAL_ERROR "no object to check")
endif()
