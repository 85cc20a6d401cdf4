# jupiter SUBCOMMAND OPTIONS, or jupiter-run [options of mpirun] SUBCOMMAND OPTIONS: subcommands, then their options,
# then the files and folders that some of them want.
_jupiter() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} subcommand= i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; ++i)); do
    if [[ -n ${_jupiter_options[${COMP_WORDS[i]}]:-} ]]; then
      subcommand=${COMP_WORDS[i]}
      break
    fi
  done
  if [[ -z $subcommand ]]; then
    # Where no subcommand fits readline completes files: host files among the options of mpirun.
    mapfile -t COMPREPLY < <(compgen -W "${!_jupiter_options[*]} --help --version" -- "$word")
    return
  fi
  if [[ " ${_jupiter_folders[$subcommand]} " == *" $before "* ]]; then
    mapfile -t COMPREPLY < <(compgen -d -- "$word")
    compopt -o filenames 2> /dev/null
  elif [[ " ${_jupiter_files[$subcommand]} " == *" $before "* ||
    $word != -* && " ${_jupiter_values[$subcommand]} " != *" $before "* ]]; then
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
    compopt -o filenames 2> /dev/null
  elif [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "${_jupiter_options[$subcommand]}" -- "$word")
  fi
}
complete -o default -F _jupiter jupiter jupiter-run
