"""Tab completion as a script that a shell reads: static, made from the parser, so that no key waits for Python."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetl.cli.parser import Parser

__all__ = ["SHELLS", "completion"]


@dataclass(frozen=True)
class _Flag:
    """A flag of a command. ``words`` are values that it may have; ``several``: with commas between."""

    names: tuple[str, ...]
    about: str
    metavar: str = ""
    words: tuple[str, ...] = ()
    several: bool = False
    files: bool = False


@dataclass(frozen=True)
class _Command:
    name: str
    about: str
    flags: tuple[_Flag, ...]
    words: tuple[str, ...] = ()
    """Values of its first argument, where they are few; otherwise it is a file or a folder."""


def completion(parser: Parser, shell: str, words: Mapping[str, Sequence[str]]) -> str:
    """The script for `shell`, one of `SHELLS`. `words` has values of flags that no declaration knows."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    about = {action.dest: action.help or "" for action in commands._choices_actions}
    found = [
        _Command(
            name,
            about[name],
            tuple(_flags(sub, words)),
            tuple(word for a in sub._actions if not a.option_strings for word in a.choices or ()),
        )
        for name, sub in commands.choices.items()
    ]
    return "\n".join(_SHELLS[shell](found)) + "\n"


def _flags(parser: Parser, words: Mapping[str, Sequence[str]]) -> Iterator[_Flag]:
    for action in parser._actions:
        if not action.option_strings or action.help == argparse.SUPPRESS:
            continue
        names, about = tuple(action.option_strings), (action.help or "").replace("%%", "%")
        if action.nargs == 0:
            yield _Flag(names, about)
            continue
        option = parser.declared.get(action.dest)
        metavar = str(action.metavar or action.dest)
        parts = metavar.split("|")
        yield _Flag(
            names,
            about,
            metavar,
            words=tuple(words.get(names[0], ()))
            or (option.choices if option is not None else ())
            or tuple(part.removesuffix("N") for part in parts if part[0].islower()),
            several=metavar.endswith(",..."),
            files=action.type is Path or any(part.endswith(("FILE", "DIR")) for part in parts),
        )


def _bash(commands: Sequence[_Command]) -> Iterator[str]:
    yield "# Tab completion of edgetl for bash, made by: edgetl completion bash"
    yield "_edgetl_several() {"
    yield '    local begun=""'
    yield '    case "$1" in *,*) begun="${1%,*}," ;; esac'
    yield '    COMPREPLY=( $(compgen -P "$begun" -W "$2" -- "${1##*,}") )'
    yield "}"
    yield "_edgetl() {"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield f'    local commands="{" ".join(command.name for command in commands)}"'
    yield "    COMPREPLY=()"
    yield '    if [ "$COMP_CWORD" -eq 1 ]; then'
    yield '        COMPREPLY=( $(compgen -W "$commands help --help --version" -- "$word") )'
    yield "        return"
    yield "    fi"
    yield '    if [ "$word" = "=" ]; then word=""; fi  # --flag=value comes as three words'
    yield '    if [ "$before" = "=" ]; then before="${COMP_WORDS[COMP_CWORD-2]}"; fi'
    yield '    case "${COMP_WORDS[1]} $before" in'
    yield '        "help help") COMPREPLY=( $(compgen -W "$commands" -- "$word") ); return ;;'
    for command in commands:
        if command.words:
            yield f'        "{command.name} {command.name}") {_bash_words(command.words)}; return ;;'
        other = []
        for flag in command.flags:
            patterns = "|".join(f'"{command.name} {name}"' for name in flag.names)
            if flag.words and flag.several:
                yield f'        {patterns}) _edgetl_several "$word" "{" ".join(flag.words)}"; return ;;'
            elif flag.words:
                yield f"        {patterns}) {_bash_words(flag.words)}; return ;;"
            elif flag.metavar:
                other.append(patterns)
        if other:
            yield f"        {'|'.join(other)}) return ;;"
    yield "    esac"
    yield '    case "$word" in -*) ;; *) return ;; esac'
    yield '    case "${COMP_WORDS[1]}" in'
    for command in commands:
        names = " ".join(name for flag in command.flags for name in flag.names)
        yield f'        {command.name}) COMPREPLY=( $(compgen -W "{names}" -- "$word") ) ;;'
    yield "    esac"
    yield "}"
    yield "# Where nothing is known, names of files."
    yield "complete -o bashdefault -o default -F _edgetl edgetl"


def _bash_words(words: Sequence[str]) -> str:
    return f'COMPREPLY=( $(compgen -W "{" ".join(words)}" -- "$word") )'


def _zsh(commands: Sequence[_Command]) -> Iterator[str]:
    yield "#compdef edgetl"
    yield "# Tab completion of edgetl for zsh, made by: edgetl completion zsh"
    yield "_edgetl() {"
    yield "    local -a commands=("
    for command in commands:
        yield f"        {_quoted(f'{command.name}:{command.about}')}"
    yield "    )"
    yield "    if (( CURRENT == 2 )) || { (( CURRENT == 3 )) && [[ $words[2] == help ]] }; then"
    yield "        _describe -t commands command commands"
    yield "        return"
    yield "    fi"
    yield "    shift words"
    yield "    (( CURRENT-- ))"
    yield "    case $words[1] in"
    for command in commands:
        yield f"        {command.name})"
        yield "            _arguments \\"
        for flag in command.flags:
            for name in flag.names:
                yield f"                {_quoted(_zsh_flag(name, flag))} \\"
        values = f"({' '.join(command.words)})" if command.words else "_files"
        yield f"                {_quoted(f'*:argument:{values}')}"
        yield "            ;;"
    yield "    esac"
    yield "}"
    yield 'if [[ "$funcstack[1]" == _edgetl ]]; then _edgetl "$@"; else compdef _edgetl edgetl; fi'


def _zsh_flag(name: str, flag: _Flag) -> str:
    about = flag.about
    for sign in "\\[]:":
        about = about.replace(sign, f"\\{sign}")
    if not flag.metavar:
        return f"{name}[{about}]"
    words = " ".join(word.replace(":", "\\:") for word in flag.words)
    if words and flag.several:
        values = f" _values -s , name {words}"
    elif words and not flag.files:
        values = f"({words})"
    elif words:
        values = f' _alternative "names\\:name\\:({words})" "files\\:file\\:_files"'
    else:
        values = "_files" if flag.files else " "
    return f"{name}=[{about}]:{flag.metavar.replace(':', ' ')}:{values}"


def _fish(commands: Sequence[_Command]) -> Iterator[str]:
    yield "# Tab completion of edgetl for fish, made by: edgetl completion fish"
    yield "complete -c edgetl -f"
    yield "complete -c edgetl -n __fish_use_subcommand -l version -d 'show the version'"
    for command in commands:
        yield f"complete -c edgetl -n __fish_use_subcommand -a {command.name} -d {_quoted(command.about)}"
    for command in commands:
        start = f"complete -c edgetl -n '__fish_seen_subcommand_from {command.name}'"
        yield f"{start} -a {_quoted(' '.join(command.words))}" if command.words else f"{start} -F"
        for flag in command.flags:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
            line = f"{start} {names} -d {_quoted(flag.about)}"
            words = " ".join(flag.words)
            if words and flag.several:
                words = f"(__fish_complete_list , 'printf %s\\\\n {words}')"
            if flag.metavar:
                line += " -r -F" if flag.files or not words else " -x"
            yield f'{line} -a "{words}"' if words else line


def _quoted(text: str) -> str:
    """`text` as one word of a shell: in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


_SHELLS: dict[str, Callable[[Sequence[_Command]], Iterator[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
SHELLS = tuple(_SHELLS)
