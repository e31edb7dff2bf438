"""The program that a pod's container starts: it empties the environment, then starts the agent's interpreter.

Variables (``LD_PRELOAD``, ``LD_AUDIT``, ``GLIBC_TUNABLES``, ``LOCPATH``, ``TZ``) decide what a loader and a C library
do before a program's first line, and a container has its image's. So the first program there has neither: it is static,
some thirty instructions, which are written here, as no compiler is at hand where an agent's image is built.

    start PROGRAM [ARGUMENT...]

It runs PROGRAM with those arguments, LC_ALL=C and TZ=: (see ENVIRONMENT), and with each variable that it was given
under a name that nothing looks for: ``=NAME=value`` for ``NAME=value``. The agent takes the ``=`` off again and gives
them to the steps. They stay in the environment as it is closed to the steps, where a command line is not.
"""

from __future__ import annotations

import struct

__all__ = ["ENVIRONMENT", "first_stage"]

ENVIRONMENT = {"LC_ALL": "C", "TZ": ":"}
"""The agent's own, which no step sees. Any other locale is read from files, some of which name code to load; without
TZ, or with a plain name in it, a file is read too. Python takes UTF-8 for its encoding all the same (PEP 540).
"""

_CODE_ADDRESS = 0x400000
_BUFFER_ADDRESS = 0x10000000
_BUFFER_SIZE = 8 << 20
"""Room for the copies: the kernel takes 6 MiB of arguments and variables, and each copy is one byte longer."""

# Arguments move two places down, over their number and the first of them, which is this program's name. Their first is
# then what is to run, and the two places that are free behind their end are for the two variables of our own, which
# stand behind the code. A program that cannot be run is exit code 127.
_X86_64 = """
48 8b 0c 24           mov   rcx, [rsp]              # how many arguments, with this program's name
48 8d 74 24 10        lea   rsi, [rsp+16]
48 89 e7              mov   rdi, rsp
f3 48 a5              rep   movsq                   # with the null at their end
48 89 fa              mov   rdx, rdi                # the new environment
48 8d 05 47 00 00 00  lea   rax, [rip+first]
48 ab                 stosq
48 8d 05 47 00 00 00  lea   rax, [rip+second]
48 ab                 stosq
48 89 fb              mov   rbx, rdi
bf 00 00 00 10        mov   edi, BUFFER_ADDRESS
48 8b 33              variable: mov rsi, [rbx]
48 85 f6              test  rsi, rsi
74 12                 jz    run
48 89 3b              mov   [rbx], rdi
48 83 c3 08           add   rbx, 8
b0 3d                 mov   al, '='
aa                    stosb
ac                    copy: lodsb
aa                    stosb
84 c0                 test  al, al
75 fa                 jnz   copy
eb e6                 jmp   variable
48 8b 3c 24           run: mov rdi, [rsp]
48 89 e6              mov   rsi, rsp
b8 3b 00 00 00        mov   eax, 59                 # execve
0f 05                 syscall
bf 7f 00 00 00        mov   edi, 127
b8 e7 00 00 00        mov   eax, 231                # exit_group
0f 05                 syscall
"""
_AARCH64 = """
e0 03 40 f9           ldr   x0, [sp]                # how many arguments, with this program's name
e1 43 00 91           add   x1, sp, #16
e2 03 00 91           mov   x2, sp
23 84 40 f8           shift: ldr x3, [x1], #8
43 84 00 f8           str   x3, [x2], #8
00 04 00 f1           subs  x0, x0, #1
a1 ff ff 54           b.ne  shift                   # with the null at their end
c3 02 00 10           adr   x3, first               # x2: the new environment
43 00 00 f9           str   x3, [x2]
c3 02 00 30           adr   x3, second
43 04 00 f9           str   x3, [x2, #8]
44 40 00 91           add   x4, x2, #16
05 00 a2 d2           mov   x5, #BUFFER_ADDRESS
a7 07 80 52           mov   w7, #'='
86 00 40 f9           variable: ldr x6, [x4]
e6 00 00 b4           cbz   x6, run
85 84 00 f8           str   x5, [x4], #8
a7 14 00 38           strb  w7, [x5], #1
c8 14 40 38           copy: ldrb w8, [x6], #1
a8 14 00 38           strb  w8, [x5], #1
c8 ff ff 35           cbnz  w8, copy
f9 ff ff 17           b     variable
e0 03 40 f9           run: ldr x0, [sp]
e1 03 00 91           mov   x1, sp
a8 1b 80 d2           mov   x8, #221                # execve
01 00 00 d4           svc   #0
e0 0f 80 d2           mov   x0, #127
c8 0b 80 d2           mov   x8, #94                 # exit_group
01 00 00 d4           svc   #0
"""
_MACHINES = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}
"""Machines with their number in an ELF file and the program: bytes in hexadecimal, two blanks, what they mean."""

_READ_EXECUTE, _READ_WRITE = 5, 6
_LOAD, _STACK = 1, 0x6474E551
_PAGE = 0x10000  # the largest that these machines have


def first_stage(machine: str) -> bytes:
    """The program for a machine, as ``os.uname`` names it. RuntimeError for one that there is none for."""
    if machine not in _MACHINES:
        raise RuntimeError(f"there is no first stage for {machine} yet, only for {' and '.join(sorted(_MACHINES))}")
    number, listing = _MACHINES[machine]
    code = b"".join(bytes.fromhex(line.partition("  ")[0]) for line in listing.split("\n"))
    code += b"".join(f"{name}={value}\0".encode() for name, value in ENVIRONMENT.items())
    start = 64 + 3 * 56
    size = start + len(code)
    # The buffer begins with what the file holds, as any program's data does, and is written over.
    segments = [
        (_LOAD, _READ_EXECUTE, 0, _CODE_ADDRESS, _CODE_ADDRESS, size, size, _PAGE),
        (_LOAD, _READ_WRITE, 0, _BUFFER_ADDRESS, _BUFFER_ADDRESS, size, _BUFFER_SIZE, _PAGE),
        (_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16),
    ]
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, number, 1, _CODE_ADDRESS + start, 64, 0, 0),  # for 64 bits, at a fixed address
        *(64, 56, len(segments), 64, 0, 0),
    )
    return header + b"".join(struct.pack("<IIQQQQQQ", *each) for each in segments) + code
