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

int x86_mask_number(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_K0 && r <= ZYDIS_REGISTER_K7
		       ? (int)(r - ZYDIS_REGISTER_K0)
		       : -1;
}

/*
 * Is it read whatever the mask says? The exception type of the manuals tells,
 * which the decoder has wrong for some, whose elements are not those of the
 * mask. Of a store, masked elements always stay as they were.
 */
static bool reads_whole(const struct x86_insn *x)
{
	switch (x->i.mnemonic) {
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
	case ZYDIS_MNEMONIC_VDBPSADBW:
	case ZYDIS_MNEMONIC_VPSHUFBITQMB:
		return true;
	default:
		break;
	}
	if (x->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return false;
	switch (x->i.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E2:
	case ZYDIS_EXCEPTION_CLASS_E3:
	case ZYDIS_EXCEPTION_CLASS_E4:
	case ZYDIS_EXCEPTION_CLASS_E5:
	case ZYDIS_EXCEPTION_CLASS_E6:
	case ZYDIS_EXCEPTION_CLASS_E10:
	case ZYDIS_EXCEPTION_CLASS_E11:
		return false;
	default:
		return true;
	}
}

static unsigned broadcast_to(ZydisBroadcastMode m)
{
	switch (m) {
	case ZYDIS_BROADCAST_MODE_1_TO_2:
		return 2;
	case ZYDIS_BROADCAST_MODE_1_TO_4:
		return 4;
	case ZYDIS_BROADCAST_MODE_1_TO_8:
		return 8;
	case ZYDIS_BROADCAST_MODE_1_TO_16:
		return 16;
	case ZYDIS_BROADCAST_MODE_1_TO_32:
		return 32;
	default:
		return 64;
	}
}

/* Elements of the memory operand and of the smallest vector register: the
 * lower number is what the mask has bits for. (VPDPBUSD has four bytes an
 * element, VCVTPD2PS half of its destination.) */
struct x86_evex_mask x86_evex_mask(const struct x86_insn *x)
{
	const ZydisDecodedOperand *mem = NULL;
	struct x86_evex_mask m = {0};
	unsigned least = 64;

	for (unsigned k = 0; k < x->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &x->op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			mem = o;
		else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
			 x86_vec_number(o->reg.value) >= 0 &&
			 o->element_count < least)
			least = o->element_count;
	}
	if (!mem || x->i.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX ||
	    !x->i.raw.evex.aaa || reads_whole(x))
		return m;
	m.k = x->i.raw.evex.aaa;
	m.packed = x->i.meta.category == ZYDIS_CATEGORY_COMPRESS ||
		   x->i.meta.category == ZYDIS_CATEGORY_EXPAND;
	m.count = mem->element_count;
	if (x->i.avx.broadcast.is_static) {
		m.n = least;
	} else if (x->i.avx.broadcast.mode) {
		m.count = 1;
		m.n = broadcast_to(x->i.avx.broadcast.mode);
	} else {
		if (least < m.count)
			m.count = least;
		m.n = m.count;
	}
	m.elem = mem->size / 8 / m.count;
	return m;
}

int x86_seg_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS)
		return r - ZYDIS_REGISTER_ES;
	return -1;
}
