/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bt engine: set-up, and the loop around the translation cache.
 *
 * The loop looks up or translates the unit at rip and enters the TC. It comes
 * back for what translated code cannot do: translate more (chain, IBTC miss),
 * callouts to the system semantics, faults that are the guest's business, and
 * kicks. 16- and 32-bit code, single-stepping and the instruction in an
 * interrupt shadow are the interpreter's.
 *
 * Why a guest cannot reach a byte of the monitor. Translated code has only
 * these kinds of memory access: (1) through the delta table: a table entry
 * leads into a window or into the void, whole slots with 512 GiB of nothing on
 * each side, and what is added to the address that was looked up stays below
 * 36 GiB (translate_facts.c); an index past the table faults, as only its two
 * ends are mapped. (2) RSP plus a constant: RSP
 * is derived through the table, and moves without a touch only within one
 * unit (translate.c); an access that a mask may suppress is no touch. (3) FS/GS base plus a constant: derived the same way.
 * (4) rT plus constants chosen by the translator. Code: a jump goes to a chained
 * unit (or is a NOP, with that unit behind it: ccf.c), or through the IBTC, whose
 * index is masked by its width and whose entries are units or the miss exit, or by
 * a return through bt_ret, whose entries are code of units that compares where it
 * should lead, or the miss exit
 * (ibtc.c). RSP comes back from r10 where a paired call arrives, and only the exit
 * of such a call, which has put it there, leads there (lead_exit in ccf.c). No
 * instruction is emitted that is not on the list of tu.c. Windows map only what
 * the p2m says is this guest's.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#undef PF_W /* elf.h has one too */
#include <sys/mman.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/p2m_reclaim.h"
#include "vmm/bt/bt_priv.h"
#include "vmm/cpu/interp.h"
#include "vmm/cpu/sys.h"
#include "vmm/mmu/mem.h"
#include "vmm/mmu/walk.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

static const struct stat_desc bt_stat_desc[] = {
#define DESC(S, n, h) {#n, h, offsetof(struct bt_stats, n)},
	BT_STATS(DESC, )
#undef DESC
};

/* ---- what the rest of the monitor tells us ---- */

/* Of 65536: how many INVLPGs of data flush the IBTC for nothing. */
#define EXEC_SEEN_MAX 1024

/*
 * May anything here rely on where vpage's code is? Of small pages of user code the
 * books are exact: a program with much code has much data, too, and in a filter the
 * two meet (one run of gcc in five had its chains undone 250 times, 6000 at a time,
 * by flushes of data).
 */
static bool exec_maybe(struct bt *bt, uint64_t vpage)
{
	unsigned half = vpage >> 51 & 1, h = vpage & 0xffff;

	if (!half && (bt->itlb[vpage % ITLB_SIZE].vpage == vpage ||
		      ibtc_uses(bt, vpage)))
		return true;
	if (bt->exec_huge[half] || (bt->exec_seen[half][h >> 3] >> (h & 7) & 1))
		return true;
	h = vpage >> 9 & 0xffff;
	return bt->exec_large[half][h >> 3] >> (h & 7) & 1;
}

static void exec_clear_seen(struct bt *bt, unsigned half)
{
	memset(bt->exec_seen[half], 0, sizeof(bt->exec_seen[half]));
	memset(bt->exec_large[half], 0, sizeof(bt->exec_large[half]));
	bt->exec_huge[half] = false;
	bt->n_exec_seen[half] = 0;
}

static void exec_forget_user(struct bt *bt)
{
	ibtc_flush(bt, VIEW_USER + bt->ctx);
	/* The ITLB and other contexts may still have pages of other spaces, good
	 * until an INVLPG that must be seen: forget them together, and not too
	 * often. */
	if (bt->n_exec_seen[0] > EXEC_SEEN_MAX || bt->exec_huge[0]) {
		ibtc_flush_user(bt);
		exec_clear_seen(bt, 0);
		bt->user_gen++;
	}
}

static void exec_forget_kernel(struct bt *bt)
{
	ibtc_flush(bt, 0);
	bt->kern_epoch = ++bt->epoch_next;
	bt->kern_loose = false;
	exec_clear_seen(bt, 1);
}

/* The user half's translations may have changed. */
static void exec_check(struct bt *bt)
{
	ibtc_choose(bt);
	if (bt->kern_loose)
		exec_forget_kernel(bt);
}

static void bt_tlb_flush(struct vcpu *v, enum tlb_flush kind, uint16_t pcid,
			 gva_t gva)
{
	struct bt *bt = (struct bt *)v->bt;

	mem_flush(v);
	shadow_flush(bt->sh, kind, pcid, gva);
	if (kind == TLB_FLUSH_PAGE || kind == TLB_FLUSH_PAGE_PCID) {
		/* A unit of the page before may reach into this one. */
		if (exec_maybe(bt, gva >> 12) ||
		    exec_maybe(bt, (gva >> 12) - 1)) {
			exec_forget_user(bt);
			if (gva >> 63 || bt->kern_loose)
				exec_forget_kernel(bt);
			shadow_new_epoch(bt->sh);
		} else if (!(gva >> 63)) {
			/* The one thing that nobody has books of: pads of a
			 * page that ran, but is in no set. */
			ret_clear(bt, true);
		}
		return;
	}
	/* CR3 is being written: bt_cr3_written comes. */
	if (kind == TLB_FLUSH_PCID && !shadow_space_epoch(bt->sh))
		return;
	exec_check(bt);
	if (kind == TLB_FLUSH_ALL)
		exec_forget_kernel(bt);
}

static void bt_cr3_written(struct vcpu *v, bool noflush)
{
	struct bt *bt = (struct bt *)v->bt;

	mem_flush(v);
	shadow_cr3(bt->sh, noflush);
	exec_check(bt);
}

static void bt_mode_changed(struct vcpu *v)
{
	struct bt *bt = (struct bt *)v->bt;

	mem_flush(v);
	shadow_mode(bt->sh);
	exec_forget_user(bt);
	ibtc_flush_user(bt);
	ibtc_choose(bt);
	exec_forget_kernel(bt);
}

static void bt_kick(struct vcpu *v)
{
	atomic_store((_Atomic uint64_t *)&v->bt_hot[HOT_POLL], BT_POLL_BAD);
}

static const struct vcpu_ops bt_vcpu_ops = {
	.tlb_flush = bt_tlb_flush,
	.cr3_written = bt_cr3_written,
	.mode_changed = bt_mode_changed,
	.kick = bt_kick,
};

static void on_drop(void *ctx, ppn_t ppn)
{
	shadow_drop_ppn(((struct bt *)ctx)->sh, ppn);
}

static void on_protect(void *ctx, ppn_t ppn)
{
	shadow_protect_ppn(((struct bt *)ctx)->sh, ppn);
}

static void on_drop_range(void *ctx, ppn_t ppn, uint64_t n)
{
	shadow_drop_range(((struct bt *)ctx)->sh, ppn, n);
}

static void on_protect_range(void *ctx, ppn_t ppn, uint64_t n)
{
	shadow_protect_range(((struct bt *)ctx)->sh, ppn, n);
}

/* Data and code on one page: after this many writes, give the page up as code
 * until it is run again; the first time sooner, for most pages are written once
 * (a booting kernel patches nearly all of its pages) and never again. */
#define SMC_PATIENCE 12
#define SMC_FIRST    2

static void on_code_written(void *ctx, ppn_t ppn, unsigned off, unsigned len)
{
	struct bt *bt = ctx;

	bt->stats.smc_writes++;
	if (tc_drop_page(bt, ppn.n, off, len))
		bt->stats.smc_pages++;
	if (++bt->smc_count[ppn.n] % SMC_PATIENCE == 0 ||
	    bt->smc_count[ppn.n] == SMC_FIRST)
		tc_drop_page(bt, ppn.n, 0, PAGE_SIZE);
	if (!bt->page_head[ppn.n])
		p2m_set_code(bt->p2m, ppn, false);
}

static const struct p2m_listener_ops bt_p2m_ops = {
	.drop = on_drop,
	.protect = on_protect,
	.code_written = on_code_written,
	.drop_range = on_drop_range,
	.protect_range = on_protect_range,
};

/* ---- set-up ---- */

static int bt_probe(char *why, size_t len)
{
	if (!__builtin_cpu_supports("bmi2") ||
	    !__builtin_cpu_supports("avx2")) {
		snprintf(why, len,
			 "the CPU has no BMI2/AVX2 (x86-64-v3); use "
			 "--engine interp");
		return -ENOTSUP;
	}
	if (!(getauxval(AT_HWCAP2) & 2)) {
		snprintf(why, len,
			 "the kernel does not enable FSGSBASE (Linux "
			 "5.9 or newer, no `nofsgsbase`); use "
			 "--engine interp");
		return -ENOTSUP;
	}
	return 0;
}

static bool map_fixed(uint8_t *at, size_t len, int fd, off_t o)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED, fd,
		    o) != MAP_FAILED;
}

/* The reservation of one view (bt/layout.h). */
static int view_init(struct bt *bt, unsigned k, int vcpu_fd, int table_fd)
{
	size_t len = BT_TABLE_SPAN + BT_IBTC_OFF;
	uint8_t *p, *t;

	p = mmap(NULL, len, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	t = p + BT_IBTC_OFF;
	if (ibtc_map(bt, k, t - BT_IBTC_OFF) ||
	    !map_fixed(t - VCPU_SIZE, VCPU_SIZE, vcpu_fd, 0) ||
	    !map_fixed(t, PAGE_SIZE, table_fd, 0) ||
	    !map_fixed(t + BT_TABLE_SPAN - PAGE_SIZE, PAGE_SIZE, table_fd,
		       PAGE_SIZE)) {
		munmap(p, len);
		return -ENOMEM;
	}
	bt->view[k] = t;
	return 0;
}

/* The views of all contexts have one delta table. */
static int views_init(struct bt *bt, int vcpu_fd)
{
	int fd[2], err = 0;

	for (int k = 0; k < 2; k++) {
		fd[k] = memfd_create("sardine-delta", MFD_CLOEXEC);
		if (fd[k] < 0 || ftruncate(fd[k], 2 * PAGE_SIZE))
			err = -errno;
	}
	for (unsigned k = 0; k < NR_VIEWS && !err; k++)
		err = view_init(bt, k, vcpu_fd, fd[k >= VIEW_USER]);
	for (int k = 0; k < 2; k++)
		if (fd[k] >= 0)
			close(fd[k]);
	return err;
}

static void bt_free(struct bt *bt)
{
	bt_fault_fini(bt);
	decode_fini(bt);
	free(bt->ls);
	if (bt->miss_fd >= 0)
		close(bt->miss_fd);
	if (bt->sh)
		shadow_destroy(bt->sh);
	if (bt->ccf)
		tc_fini(bt);
	for (unsigned k = 0; k < NR_VIEWS; k++)
		if (bt->view[k])
			munmap(bt->view[k] - BT_IBTC_OFF,
			       BT_TABLE_SPAN + BT_IBTC_OFF);
	free(bt);
}

/* CPUID 0Dh.1: XSAVEC (bit 1) and XGETBV with ECX = 1 (bit 2). */
static bool host_has_xgetbv1(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(0xd, 1, &a, &b, &c, &d) && (a & 6) == 6;
}

static int bt_init(struct vm *vm, struct vcpu *v)
{
	struct bt *bt = calloc(1, sizeof(*bt));
	struct shadow_tables tab;
	int err;

	if (!bt)
		return -ENOMEM;
	tu_init();
	cold_init(vm->cfg.check == CHECK_AUTO ? !__builtin_cpu_is("amd")
					      : vm->cfg.check == CHECK_JRCXZ);
	bt->vm = vm;
	bt->v = v;
	bt->p2m = vm->p2m;
	bt->ibtc_miss = (void *)bt_exit_ibtc;
	bt->miss_fd = -1;
	bt->tu_max = vm->cfg.tu_max && vm->cfg.tu_max < TU_MAX ? vm->cfg.tu_max
							       : TU_MAX;
	bt->chain = !vm->cfg.no_chain;
	bt->lockstep = vm->cfg.lockstep;
	bt->xgetbv1 = host_has_xgetbv1();
	bt->count = vm->cfg.count;
	bt->pair_all = vm->cfg.pair_all;
	bt->touch_all = vm->cfg.touch_all;
	bt->epoch_next = 1;
	bt->kern_epoch = 1;
	err = decode_init(bt);
	if (err)
		goto fail;
	err = tc_init(bt, vm->cfg.tc_bytes ? vm->cfg.tc_bytes : VM_TC_DEFAULT);
	if (!err)
		err = views_init(bt, vm->vcpu_memfd);
	if (err)
		goto fail;
	vm->code_start = (uint64_t)bt->rx;
	vm->code_end = vm->code_start + bt->tc_size;
	for (int k = 0; k < 2; k++) {
		tab.lo[k] = (uint64_t *)bt->view[k];
		tab.hi[k] =
			(uint64_t *)(bt->view[k] + BT_TABLE_SPAN - PAGE_SIZE);
	}
	err = shadow_create(v, bt->p2m, &tab, &bt->sh);
	if (err)
		goto fail;
	err = interp_vcpu_init(v);
	if (err)
		goto fail;
	v->bt = (struct bt_vcpu *)bt;
	v->ops = &bt_vcpu_ops;
	p2m_set_listener(bt->p2m, &bt_p2m_ops, bt);
	v->bt_hot[HOT_VCPU] = (uint64_t)v;
	v->bt_hot[HOT_FPU] = (uint64_t)v->fpu;
	v->bt_hot[HOT_J_CHAIN] = (uint64_t)bt_exit_chain;
	v->bt_hot[HOT_J_IBTC] = (uint64_t)bt_exit_ibtc;
	v->bt_hot[HOT_J_CALLOUT] = (uint64_t)bt_exit_callout;
	v->bt_hot[HOT_J_TOUCH] = (uint64_t)bt_do_touch;
	v->bt_j_cpuid =
		(uint64_t)(bt->lockstep ? bt_exit_callout : bt_do_cpuid);
	v->bt_hot[HOT_POLL] = (uint64_t)&v->bt_hot[HOT_LAST_IND];
	v->bt_j_cr3 = (uint64_t)bt_do_cr3;
	bt->stat_group = (struct stat_group){
		"bt", bt_stat_desc, ARRAY_SIZE(bt_stat_desc), &bt->stats, NULL};
	vm_add_stats(vm, &bt->stat_group);
	account_init(bt);
	shadow_add_stats(bt->sh, vm);
	return 0;
fail:
	bt_free(bt);
	return err;
}

static void bt_fini(struct vm *vm, struct vcpu *v)
{
	interp_vcpu_fini(v);
	p2m_set_listener(vm->p2m, NULL, NULL);
	bt_free((struct bt *)v->bt);
	v->bt = NULL;
}

/* ---- the loop ---- */

/* The page holds code from now on: no writable mapping may stay. */
static void mark_code(struct bt *bt, uint32_t ppn)
{
	if (p2m_is_code(bt->p2m, (ppn_t){ppn}))
		return;
	shadow_protect_ppn(bt->sh, (ppn_t){ppn});
	p2m_set_code(bt->p2m, (ppn_t){ppn}, true);
}

/*
 * One unit. (Those that follow it in the same go, while the translator is in the caches,
 * were tried: 39% fewer exits to be chained, 1 to 11% more units, and python and gcc
 * took as long.)
 */
static uint32_t translate_at(struct bt *bt, uint64_t rip, uint32_t ppn)
{
	struct tu *tu = bt->tu;
	uint64_t start = __builtin_ia32_rdtsc();
	uint32_t id;

	id = reloc_copy(bt, rip, ppn, bt->pend_from, false);
	if (id)
		return id;
	if (tu_decode(bt, rip, ppn, tu))
		return 0;
	bt->pend_call = bt->pend_from &&
			bt->ccf[bt->pend_from].exit[bt->pend_exit].call;
	if (bt->pend_from)
		ccf_make_last(bt, bt->pend_from, bt->pend_exit);
	id = bt_translate(bt, tu);
	mark_code(bt, tu->ppn);
	if (tu->straddle)
		mark_code(bt, tu->ppn2);
	account_translation(bt, &bt->ccf[id], start);
	reloc_learn(bt, id);
	tc_large_look(bt, &bt->ccf[id]);
	p2m_set_cache(bt->p2m, tc_memory(bt));
	return id;
}

/* An access went where no window is. Make the windows that the instruction's
 * operands need; false when there is nothing to make. */
static bool need_windows(struct bt *bt)
{
	struct vcpu *v = bt->v;
	unsigned user = !!(bt->mode & MODE_USER), got;
	uint8_t bytes[15];
	ZydisDecodedInstruction i;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisRegisterContext regs = {0};
	bool made = false;

	if (mem_fetch(v, v->rip, bytes, &got) != CPU_OK) {
		v->exc.pending = false;
		return false;
	}
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&bt->dec, bytes, got, &i, op)))
		return false;
	for (int r = 0; r < 16; r++)
		regs.values[ZYDIS_REGISTER_RAX + r] = v->gpr[r];
	for (unsigned k = 0; k < i.operand_count; k++) {
		uint64_t a;

		if (op[k].type != ZYDIS_OPERAND_TYPE_MEMORY ||
		    op[k].mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
		    op[k].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			continue;
		if (ZYAN_FAILED(ZydisCalcAbsoluteAddressEx(&i, &op[k], v->rip,
							   &regs, &a)))
			continue;
		if (op[k].mem.segment == ZYDIS_REGISTER_FS)
			a += v->seg[SEG_FS].base;
		if (op[k].mem.segment == ZYDIS_REGISTER_GS)
			a += v->seg[SEG_GS].base;
		/* A push writes below RSP. */
		if (op[k].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
		    op[k].mem.base == ZYDIS_REGISTER_RSP &&
		    (op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			a -= 8;
		made |= shadow_need_window(bt->sh, a, user);
	}
	return made;
}

static void check_irq(struct bt *bt)
{
	struct vcpu *v = bt->v;

	bt->irq_pending = v->irq && v->irq->peek(v->irq_ctx) >= 0;
	v->bt_hot[HOT_IRQ_POLL] = bt->irq_pending
					  ? BT_POLL_BAD
					  : (uint64_t)&v->bt_hot[HOT_LAST_IND];
}

static enum cpu_status interp_one(struct bt *bt)
{
	enum cpu_status st = interp_step(bt->v);

	bt->stats.interp_insns++;
	return st;
}

/* An indirect branch led to a non-canonical address. The #GP belongs to the
 * branch, before its effect: take RSP back, and let the interpreter do it. */
static void undo_branch(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint32_t at = v->bt_hot[HOT_LAST_IND];
	const struct ccf *c;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t bytes[15];
	unsigned got;

	if (!at)
		return; /* not a branch */
	if (at >> BT_IND_LAST) {
		c = &bt->ccf[tc_find(bt, at & ~(1u << BT_IND_LAST))];
		at = c->host + c->host_len - 1;
	}
	bt_recover(bt, at);
	if (mem_fetch(v, v->rip, bytes, &got) != CPU_OK ||
	    ZYAN_FAILED(ZydisDecoderDecodeFull(&bt->dec, bytes, got, &i, op)))
		return;
	if (i.mnemonic == ZYDIS_MNEMONIC_CALL)
		v->gpr[R_RSP] += 8;
	else if (i.mnemonic == ZYDIS_MNEMONIC_RET)
		v->gpr[R_RSP] -= 8 + (i.operand_count_visible
					      ? op[0].imm.value.u & 0xffff
					      : 0);
}

/* Back from a page fault's handler, or elsewhere: in an interrupt's caller, in a
 * signal's handler, at the fixup of a failed access. One that is not back soon
 * never comes: waiting for it makes each IRET a callout. */
#define PF_OTHERS 4
static void pf_look(struct bt *bt)
{
	struct vcpu *v = bt->v;

	if (bt_pf_back(bt))
		bt_pf_fill(bt);
	else if (v->cpl != 3 && ++bt->pf.others < PF_OTHERS)
		return;
	v->bt_hot[HOT_PF_PENDING] = 0;
}

/* A careful site is about to access a page that is not mapped: what a fault
 * there would do. kind: what is left to do. */
static enum cpu_status handle_touch(struct bt *bt, int *kind)
{
	struct vcpu *v = bt->v;
	uint64_t info = v->bt_hot[HOT_EXIT_INFO], hva = v->bt_hot[HOT_TMP1];
	bool write = info >> BT_TOUCH_WRITE & 1;
	struct site *s = site_missed(bt);

	bt_recover(bt, info & ((1u << BT_TOUCH_WRITE) - 1));
	bt->fault_is_access = true;
	bt->last_fill = shadow_has(bt->sh, hva, write)
				? SHADOW_OK
				: shadow_fill(bt->sh, hva, write,
					      !!(bt->mode & MODE_USER));
	if (s->settled)
		site_settle(bt, s);
	s->settled = false;
	switch (bt->last_fill) {
	case SHADOW_OK:
		bt->stats.faults_hidden++;
		reason_count(&bt->reasons, &bt->reasons.fault[FAULT_hidden]);
		return CPU_OK;
	case SHADOW_PF:
		reason_count(&bt->reasons, &bt->reasons.fault[FAULT_true]);
		return bt_pf_raise(bt);
	default:
		*kind = BT_EXIT_FAULT;
		return CPU_OK;
	}
}

/* After the TC came back. */
static enum cpu_status handle_exit(struct bt *bt, int kind)
{
	struct vcpu *v = bt->v;
	enum cpu_status st;

	if (kind == BT_EXIT_TOUCH) {
		st = handle_touch(bt, &kind);
		if (kind == BT_EXIT_TOUCH)
			return st;
	} else if (kind == BT_EXIT_FAULT && bt->last_fill != SHADOW_NOTOURS) {
		site_fault(bt);
	}
	if (bt->site_due)
		site_apply(bt);
	switch (kind) {
	case BT_EXIT_CHAIN:
		bt->pend_from = EXIT_CCF(v->bt_hot[HOT_EXIT_INFO]);
		bt->pend_exit = EXIT_NO(v->bt_hot[HOT_EXIT_INFO]);
		return CPU_OK;
	case BT_EXIT_IBTC:
		if (gva_canonical(v->rip)) {
			bt->pend_ibtc = true;
			return CPU_OK;
		}
		undo_branch(bt);
		break;
	case BT_EXIT_CALLOUT:
		bt->stats.callouts++;
		bt_recover(bt, v->bt_hot[HOT_EXIT_INFO]);
		account_callout(bt);
		if (bt->ccf[bt->recovered].callout == CALLOUT_cpuid + 1)
			bt_cpuid_keep(bt);
		break;
	case BT_EXIT_FAULT:
		bt->stats.faults_slow++;
		if (bt->last_fill == SHADOW_NOTOURS && need_windows(bt)) {
			bt->reasons.fault[FAULT_window].count++;
			return CPU_OK;
		}
		account_fault(bt);
		if (bt->last_fill == SHADOW_NOMEM)
			return vcpu_stop(v, "the host is out of memory");
		break;
	case BT_EXIT_EVENT:
		return bt->event_status;
	case BT_EXIT_POLL:
		bt->stats.polls++;
		if (v->requests)
			return CPU_OK;
		break; /* STI with an interrupt waiting */
	}
	st = interp_one(bt);
	check_irq(bt);
	if (v->bt_hot[HOT_PF_PENDING])
		pf_look(bt);
	return st;
}

static void link_pending(struct bt *bt, uint32_t id)
{
	if (bt->chain && !bt->lockstep) {
		if (bt->pend_from && !(bt->ccf[bt->pend_from].flags & CCF_DEAD))
			tc_chain(bt, bt->pend_from, bt->pend_exit, id);
		else if (bt->pend_ibtc)
			ibtc_fill(bt, id);
	}
	bt->pend_from = 0;
	bt->pend_ibtc = false;
}

/*
 * The unit at rip. The ITLB loses a second page (to another, or to a change of
 * address space) long before the unit goes; without the walk here the same unit
 * would be translated again and again, and its bucket grow with each.
 */
static uint32_t lookup(struct bt *bt, uint64_t rip, uint32_t ppn)
{
	uint32_t id = tc_lookup(bt, rip, ppn, bt_key(bt)), ppn2;

	if (id || !tc_straddles(bt, rip, ppn, bt_key(bt)) ||
	    !exec_page(bt, (rip | (PAGE_SIZE - 1)) + 1, &ppn2))
		return id;
	return tc_lookup(bt, rip, ppn, bt_key(bt));
}

static enum vcpu_exit bt_run(struct vcpu *v)
{
	struct bt *bt = (struct bt *)v->bt;
	uint32_t ppn, id;

	if (!bt->started) {
		int err = bt_fault_init(bt);

		if (err) {
			vcpu_stop(v, "cannot set up signal handling: %s",
				  strerror(-err));
			return EXIT_ERROR;
		}
		bt->started = true;
	}
	shadow_enter(bt->sh);
	check_irq(bt);
	reason_drop(&bt->reasons);
	bt->pend_from = 0;
	bt->pend_ibtc = false;
	for (;;) {
		int kind;

		atomic_store((_Atomic uint64_t *)&v->bt_hot[HOT_POLL],
			     (uint64_t)&v->bt_hot[HOT_LAST_IND]);
		if (v->requests)
			return EXIT_KICK;
		if (v->halted)
			return EXIT_HLT;
		if (bt->irq_pending && cpu_can_take_irq(v))
			return EXIT_KICK;
		bt_sync_mode(bt);
		if (bt_interp_only(v)) {
			bt->stats.interp_mode++;
			ppn = ~0u;
		} else if (!exec_page(bt, v->rip, &ppn)) {
			bt->stats.interp_fetch++;
			ppn = ~0u;
		}
		if (ppn == ~0u) {
			bt->pend_from = 0;
			bt->pend_ibtc = false;
			if (interp_one(bt) == CPU_EXIT)
				return v->exit;
			check_irq(bt);
			continue;
		}
		if (bt->pair_due && (bt->mode & MODE_USER))
			ret_pair_all(bt);
		id = lookup(bt, v->rip, ppn);
		if (!id)
			id = translate_at(bt, v->rip, ppn);
		if (!id) {
			bt->pend_from = 0;
			bt->pend_ibtc = false;
			if (interp_one(bt) == CPU_EXIT)
				return v->exit;
			continue;
		}
		link_pending(bt, id);
		if (bt->lockstep)
			lockstep_before(bt, id);
		bt_sync_in(bt);
		v->bt_hot[HOT_PC] = (uint64_t)(bt->rx + bt->ccf[id].host +
					       bt->ccf[id].direct);
		bt->stats.entries++;
		reason_end(&bt->reasons);
		kind = bt_enter(v);
		bt_sync_out(bt);
		if (bt->lockstep && kind <= BT_EXIT_IBTC &&
		    lockstep_after(bt, id) == CPU_EXIT)
			return v->exit;
		if (handle_exit(bt, kind) == CPU_EXIT)
			return v->exit;
	}
}

/* Outside run() only the vcpu holds the guest's state: what points into the TC
 * is cleared by the flush, and pend_from. */
static void bt_trim(struct vm *vm)
{
	struct bt *bt = (struct bt *)vm->vcpu->bt;

	tc_flush(bt);
	tc_trim(bt);
	shadow_trim(bt->sh);
	interp_trim(vm->vcpu);
	p2m_set_cache(bt->p2m, tc_memory(bt));
}

static uint64_t bt_trimmable(const struct vm *vm)
{
	const struct bt *bt = (const struct bt *)vm->vcpu->bt;

	return bt->stats.tc_used;
}

const struct engine_ops engine_bt = {
	.name = "bt",
	.probe = bt_probe,
	.init = bt_init,
	.fini = bt_fini,
	.run = bt_run,
	.trim = bt_trim,
	.trimmable = bt_trimmable,
};
