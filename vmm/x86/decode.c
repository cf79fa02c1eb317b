/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/x86/decode.h"

#include <pthread.h>

static ZydisDecoder decoders[4];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_decoders(void)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth width;
	} m[4] = {
		[X86_MODE_REAL16] = {ZYDIS_MACHINE_MODE_REAL_16,
				     ZYDIS_STACK_WIDTH_16},
		[X86_MODE_PROT16] = {ZYDIS_MACHINE_MODE_LEGACY_16,
				     ZYDIS_STACK_WIDTH_16},
		[X86_MODE_PROT32] = {ZYDIS_MACHINE_MODE_LEGACY_32,
				     ZYDIS_STACK_WIDTH_32},
		[X86_MODE_LONG64] = {ZYDIS_MACHINE_MODE_LONG_64,
				     ZYDIS_STACK_WIDTH_64},
	};

	for (int i = 0; i < 4; i++) {
		ZydisDecoderInit(&decoders[i], m[i].mode, m[i].width);
		/* Never shown to a guest, so these are the old wide NOPs
		 * (libgcc executes RDSSPQ blindly and counts on that). */
		ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_MPX,
				       ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_CET,
				       ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[i],
				       ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[i],
				       ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
	}
}

enum x86_decode_result x86_decode(enum x86_mode mode, const uint8_t *buf,
				  unsigned len, struct x86_insn *out)
{
	ZydisDecoderContext ctx;
	ZyanStatus st;

	pthread_once(&once, init_decoders);
	st = ZydisDecoderDecodeInstruction(&decoders[mode], &ctx, buf, len,
					   &out->i);
	if (ZYAN_SUCCESS(st))
		st = ZydisDecoderDecodeOperands(&decoders[mode], &ctx, &out->i,
						out->op, out->i.operand_count);
	if (ZYAN_SUCCESS(st))
		return X86_DECODE_OK;
	if (st == ZYDIS_STATUS_NO_MORE_DATA)
		return len >= 15 ? X86_DECODE_TOO_LONG : X86_DECODE_SHORT;
	if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return X86_DECODE_TOO_LONG;
	return X86_DECODE_BAD;
}

int x86_gpr_number(ZydisRegister r, bool *high)
{
	*high = false;
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15B) {
		/* AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B.. */
		int n = r - ZYDIS_REGISTER_AL;

		if (n < 4)
			return n;
		if (n < 8) {
			*high = true;
			return n - 4;
		}
		return n - 4;
	}
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return r - ZYDIS_REGISTER_AX;
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return r - ZYDIS_REGISTER_EAX;
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return r - ZYDIS_REGISTER_RAX;
	return -1;
}

int x86_vec_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_XMM0 && r <= ZYDIS_REGISTER_XMM31)
		return r - ZYDIS_REGISTER_XMM0;
	if (r >= ZYDIS_REGISTER_YMM0 && r <= ZYDIS_REGISTER_YMM31)
		return r - ZYDIS_REGISTER_YMM0;
	if (r >= ZYDIS_REGISTER_ZMM0 && r <= ZYDIS_REGISTER_ZMM31)
		return r - ZYDIS_REGISTER_ZMM0;
	return -1;
}

int x86_seg_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS)
		return r - ZYDIS_REGISTER_ES;
	return -1;
}
