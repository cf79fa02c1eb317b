/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BT_LAYOUT_H
#define SARDINE_VMM_BT_LAYOUT_H
/*
 * Where translated code finds things. Plain numbers: entry.S includes this.
 *
 * There are two kinds of view of a vCPU, one for CPL 0 and one for CPL 3, of which
 * there are several with IBTCs of their own (ibtc.c). Each is a
 * reservation of the monitor's address space around an address T (page
 * aligned):
 *
 *	T - BT_IBTC_OFF	   64 Ki code pointers: the indirect-branch table (IBTC)
 *	T - VCPU_SIZE	   struct vcpu; the same pages in all views
 *	T		   delta table, entries 0..511   (lower half of 2^48)
 *	T + 256 MiB - 4 KiB	   the last 512 entries  (upper half)
 *
 * rT (host r15) holds T - 89. That is 39 mod 64, so rT is also the shift count
 * that turns an address into its table index, and [rT - 128] .. [rT + 127]
 * covers gpr[] and the last hot words with one-byte displacements. (r8 and r9 are
 * named less in large programs, but are what small hot loops use: with rT in r8
 * random reads took 1.07 times as long, RSA 1.16, and gcc no less; with r9 python,
 * which has its operand there, 1.15.)
 *
 * The CPU (Zen 4 at least) guesses that a load gets what was last stored to the
 * same base register with a displacement alike in its low bits, and pays dearly
 * when it does not. What is written all the time (r10, r11 and r15 of the guest,
 * RSP's deltas) must not be alike mod 256 to a table entry that code
 * has as a constant: those of slots 0xff (libraries) and 0x1ff (the kernel's
 * text) would be r15's, but for BT_GAP between gpr[] and T.
 */
#define BT_T_BIAS	 89
#define BT_GAP		 64
#define BT_VCPU_SIZE	 8192
#define BT_IBTC_ENTRIES	 65536
#define BT_IBTC_BYTES	 (BT_IBTC_ENTRIES * 8)
#define BT_IBTC_OFF	 (BT_VCPU_SIZE + BT_IBTC_BYTES)
#define BT_TABLE_SPAN	 (1 << 28)

/* Displacements from rT. */
#define BT_D_GPR(n)	 (8 * (n)-128 - BT_GAP + BT_T_BIAS)
#define BT_D_HOT(i)	 (8 * (i)-128 - 384 - BT_GAP + BT_T_BIAS)
#define BT_D_TABLE	 BT_T_BIAS
#define BT_D_IBTC	 (BT_T_BIAS - BT_IBTC_OFF)
#define BT_D_VCPU(o)	 ((int)(o)-BT_VCPU_SIZE + BT_T_BIAS)

/* Hot words: indexes into vcpu->bt_hot[48]. */
#define HOT_RSP_NOTD	 47 /* ~delta of the stack's window */
#define HOT_RSP_DELTA	 46 /* host rsp = guest rsp + this */
#define HOT_POLL	 45 /* address of HOT_LAST_IND, or BT_POLL_BAD: kicked */
#define HOT_IRQ_POLL	 44 /* BT_POLL_BAD: an interrupt waits for IF */
#define HOT_TMP0	 43
#define HOT_TMP1	 42
#define HOT_TMP2	 41
#define HOT_IF		 40 /* FL_IF or 0, while in the TC */
#define HOT_EXIT_INFO	 39
#define HOT_EXIT_KIND	 38
#define HOT_HOST_RSP	 37 /* the monitor's stack, inside bt_enter */
#define HOT_HOST_FS	 36 /* the monitor's FS base */
#define HOT_FS		 35 /* guest FS base in host form */
#define HOT_GS		 34 /* guest GS base in host form */
#define HOT_KGS		 33 /* guest KERNEL_GS_BASE in host form */
#define HOT_RSP_HOST	 32 /* host form of RSP, for entering */
#define HOT_PC		 31 /* where to enter the TC */
#define HOT_RT		 30 /* rT of the current view */
#define HOT_J_CHAIN	 29 /* code pointers: the ways out */
#define HOT_J_IBTC	 28
#define HOT_J_CALLOUT	 27
#define HOT_FPU		 26 /* v->fpu */
#define HOT_FPU_MASK	 25
#define HOT_VCPU	 24 /* canonical address of struct vcpu */
#define HOT_LAST_IND	 23 /* the last one that missed; or 0 */
#define HOT_RT_USER	 22
#define HOT_RT_KERN	 21
#define HOT_J_SYSCALL	 20
#define HOT_J_SYSRET	 19
#define HOT_FMASK	 18
#define HOT_LSTAR	 17
#define HOT_IND		 16 /* the indirect branch that is being done */

#define HOT_J_IRET	 15
#define HOT_J_XSAVE	 14
#define HOT_J_XSAVEC	 13
#define HOT_J_XRSTOR	 12
#define HOT_GDT		 11 /* host form of the GDT's base, or 0 (stubs.S) */
#define HOT_PF_PENDING	 10 /* pf.c waits for the guest to come back */
#define HOT_J_TOUCH	 9

/* Segment caches (two words each) that SYSCALL and SYSRET load, and where
 * struct bt's mode is. */
#define HOT_KCS		 0
#define HOT_KSS		 2
#define HOT_UCS		 4
#define HOT_USS		 6
#define HOT_MODE_P	 8

/* Offsets in struct vcpu (asserted in sync.c). */
#define VCPU_RFLAGS	 8
#define VCPU_CPL	 16
#define VCPU_CS		 40
#define VCPU_SS		 56
#define VCPU_GS_BASE	 112

/* Page 0 is never mapped (vm.mmap_min_addr). */
#define BT_POLL_BAD	 256

/* Signal stack of the vCPU thread; its size is its alignment, and its lowest
 * words are struct bt_altstack (fault.c). */
#define BT_ALTSTACK_SIZE 65536

/* HOT_EXIT_KIND */
#define BT_EXIT_CHAIN	 1 /* info: EXIT_ID */
#define BT_EXIT_IBTC	 2 /* info: target rip */
#define BT_EXIT_CALLOUT	 3 /* info: TC offset; state is recovered from it */
#define BT_EXIT_FAULT	 4 /* state already recovered; rip in vcpu->rip */
#define BT_EXIT_POLL	 5 /* the same */
#define BT_EXIT_EVENT	 6 /* the same; the event has been delivered */

#define BT_EXIT_TOUCH                                                          \
	7 /* as a callout; TOUCH_WRITE; address in TMP1, site in TMP2 */

/* In HOT_EXIT_INFO, beside the TC offset: the access is a write. */
#define BT_TOUCH_WRITE 31

/* From where HOT_POLL points to HOT_IND. (With 0, sqlite took 1.28 times as long:
 * the polls' loads have that displacement, too. See above.) */
#define BT_IND_OFF     (8 * (HOT_IND - HOT_LAST_IND))

/* In HOT_IND, beside a TC offset of the branch: it is one of the unit that the
 * branch ends. */
#define BT_IND_LAST    31

/* What bt_signal answers. */
#define BT_SIG_RETRY   0 /* mended: the host instruction again */
#define BT_SIG_LEAVE   1 /* out through bt_exit_fault */
#define BT_SIG_ENTER   2 /* to HOT_PC, with the state in the vcpu */
#endif
