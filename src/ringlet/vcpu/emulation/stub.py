"""Host code around one emulated instruction: it loads the guest's state, and stores it again."""


def _absolute(opcode: bytes, reg: int, address: int) -> bytes:
    """Return `opcode` with ModRM.reg `reg` and the operand [disp32]."""
    return opcode + bytes([(reg & 7) << 3 | 4, 0x25]) + address.to_bytes(4, "little")


def stub(
    *,
    host_rsp: int,
    image: int,
    registers_in: int,
    registers_out: int,
    flags_in: int,
    flags_out: int,
    entry: int,
    mxcsr: int,
) -> tuple[bytes, int]:
    """Return the code around an instruction, and the offset of its second half.

    The parameters are addresses below 2 GiB: of the host's RSP while the guest's is loaded, of the
    XSAVE image, of the sixteen general registers and the flags before and after, of the
    instruction's own address, and of the host's MXCSR.
    """
    code = bytes.fromhex("53 55 4154 4155 4156 4157")  # push rbx, rbp, r12-r15
    code += _absolute(b"\x48\x89", 4, host_rsp)  # mov [host_rsp], rsp
    code += bytes.fromhex("B807000000 31D2")  # mov eax, 7; xor edx, edx
    code += _absolute(b"\x48\x0f\xae", 5, image)  # xrstor64
    code += _absolute(b"\xff", 6, flags_in)  # push [flags]
    code += b"\x9d"  # popfq
    for reg in range(16):
        code += _absolute(bytes([0x48 | reg >> 3 << 2, 0x8B]), reg, registers_in + 8 * reg)
    code += _absolute(b"\xff", 4, entry)  # jmp [entry]
    leave = len(code)
    for reg in range(16):
        code += _absolute(bytes([0x48 | reg >> 3 << 2, 0x89]), reg, registers_out + 8 * reg)
    code += _absolute(b"\x48\x8b", 4, host_rsp)  # mov rsp, [host_rsp]
    code += b"\x9c"  # pushfq
    code += _absolute(b"\x8f", 0, flags_out)  # pop [flags]
    code += bytes.fromhex("FC B807000000 31D2")  # cld; mov eax, 7; xor edx, edx
    code += _absolute(b"\x48\x0f\xae", 4, image)  # xsave64
    code += bytes.fromhex("C5F877 DBE3")  # vzeroupper; fninit
    code += _absolute(b"\x0f\xae", 2, mxcsr)  # ldmxcsr
    code += bytes.fromhex("415F 415E 415D 415C 5D 5B C3")  # pop r15-r12, rbp, rbx; ret
    return code, leave
