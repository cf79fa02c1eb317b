/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BT_BT_PRIV_H
#define SARDINE_VMM_BT_BT_PRIV_H
/*
 * The translator's own data. The line of one guest instruction:
 *
 *   rip -> exec_page (which PPN)     exec.c
 *	 -> ccf lookup		      ccf.c
 *	 -> tu_decode, translate      tu.c, decode.c, translate*.c
 *	 -> TC			      tc.c, entry.S
 *	 -> fault -> recover	      fault.c
 *	 -> shadow fill		      vmm/mmu/shadow.c
 *
 * All of it belongs to the vCPU thread.
 */
#include <Zydis/Zydis.h>
#include <signal.h>

#include "mm/base/stats.h"
#include "mm/p2m.h"
#include "vmm/bt/insn.h"
#include "vmm/bt/layout.h"
#include "vmm/bt/phase.h"
#include "vmm/bt/reason.h"
#include "vmm/cpu/sys.h"
#include "vmm/cpu/vcpu.h"
#include "vmm/mmu/shadow.h"
#include "vmm/x86/regs.h"

/* Branches and calls that a unit runs on past, and all its ways on. */
#define TU_SIDE_MAX    3
#define CCF_EXITS      (TU_SIDE_MAX + 2)
/* Calls in it that are paired with their returns, at most. */
#define CCF_PADS       (TU_SIDE_MAX + 1)
/* An exit of a CCF as one number, never 0. */
#define EXIT_ID(id, e) ((id)*8 + (e))
#define EXIT_CCF(x)    ((x) / 8)
#define EXIT_NO(x)     ((x) % 8)

/* What a CCF depends on besides the bytes: part of its key. */
#define MODE_USER      1u /* CPL 3 */
/* Which vector code calls out: a field of two bits, and what is called out at
 * one value is so at those above. */
#define MODE_VEC       6u
#define MODE_NO512     2u  /* XCR0 without AVX-512 */
#define MODE_NOAVX     4u  /* XCR0 without AVX, or no OSXSAVE */
#define MODE_NOSSE     6u  /* CR0.EM/TS or !CR4.OSFXSR */
#define MODE_TSC_OUT   8u  /* RDTSC, RDRAND call out (offset, TSD, layout) */
#define MODE_CPL12     16u /* CPL 1 or 2: everything sensitive calls out */
#define MODE_NOFSGS    32u /* CR4.FSGSBASE is clear */
/* Of user code: the context that it runs in (ibtc.c), not in bt->mode. */
#define MODE_CTX(c)    ((c) << 6)
#define MODE_CTX_MASK  MODE_CTX(3u)
#define NR_CTX	       4u
/* Views of the vCPU: the kernel's, and one of each context. */
#define NR_VIEWS       (1 + NR_CTX)
#define VIEW_USER      1u
#define CTX_HOMES      64

static inline unsigned mode_view(unsigned mode)
{
	return mode & MODE_USER
		       ? VIEW_USER + (mode & MODE_CTX_MASK) / MODE_CTX(1)
		       : 0;
}

/* How the guest's registers are found at a host PC. */
enum recov_kind {
	RK_NORMAL,
	RK_BORROW_RSI, /* RSI is in TMP0 */
	RK_RDI,	       /* RDI in host form, delta in TMP0 */
	RK_RSI,	       /* RSI in host form, delta in TMP1 */
	RK_RSI_RDI,    /* both */
	RK_RSP,	       /* RSP is in TMP0 */
	RK_TOUCH, /* as RK_NORMAL; an access that the guest does not make */
	/* As these two; but an addition to RSP goes before, and the flags are that
	 * of its host form (translate_rsp.c). */
	RK_MOVED,
	RK_MOVED_TOUCH,
};
struct recov {
	uint16_t host;	     /* from here on, relative to the CCF's start */
	uint16_t guest : 12; /* of the guest instruction, from ccf->rip */
	uint16_t kind : 4;
};

#define CCF_STRADDLE 1u /* its one instruction crosses into ppn2 */
#define CCF_DEAD     2u /* unlinked; memory is reused with its region */
#define CCF_OFF	     4u /* not in the list of ppn any more */
#define CCF_OFF2     8u /* not in the list of ppn2 any more */
#define CCF_UNPAIRED                                                           \
	16u	       /* has a call or a return that is not paired (ibtc.c) */
#define CCF_CALLED 32u /* has a call entry, CALL_ENTRY bytes before direct */
#define CCF_TURNED 64u /* its last two exits have changed places (ccf_turn) */

struct ccf_exit {
	uint16_t patch; /* where the rel32 is, from the CCF's start; 0: none */
	bool cross;	/* leads out of the page */
	bool again;	/* and was taken, in this place or another */
	bool call;	/* a paired call's: the host's RSP is in r10 */
	int32_t target; /* rip of the target - ccf->rip */
	uint32_t to;	/* CCF it is chained to, 0: none */
	uint32_t next_in; /* next in `to`'s list of incoming exits: EXIT_ID */
};
/* Where a paired call's return arrives: from host, and from rip. */
struct ccf_pad {
	uint16_t host, next;
};
struct ccf {
	uint64_t rip;
	uint32_t ppn, ppn2;
	uint32_t host; /* TC offset of its code */
	uint32_t cold; /* and of what is hardly ever run (translate_cold.c) */
	uint32_t checked; /* TC offset of the checked entry: host, or in cold */
	uint16_t host_len; /* bytes */
	uint16_t cold_len;
	uint16_t direct;    /* of the unchecked entry, from host */
	uint16_t guest_len; /* bytes of guest code covered */
	uint8_t n_insn;
	uint8_t mode, flags;
	uint16_t n_recov;
	uint32_t recov; /* index of the first */
	uint32_t next_hash, next_page, next_page2;
	uint32_t ibtc_next; /* shares the IBTC entry */
	uint16_t life; /* a copy: of its context, as it was made (reloc.c) */
	uint8_t check; /* from host: the checked entry, if it is there; or 0 */
	uint8_t n_pad;
	struct ccf_pad pad[CCF_PADS];
	bool in_ibtc;
	bool reached; /* has been in the IBTC, in this place or another */
	uint8_t n_reloc;
	uint32_t reloc; /* index of the first */
	/* At rip in [lo, hi) the same code serves, but for its fields (reloc.c);
	 * hi 0: it may not be moved. */
	int64_t lo, hi;
	/* The reason of its last callout + 1, or 0, and whose: recov.guest. */
	uint8_t callout;
	uint16_t callout_at;
	uint32_t incoming; /* exits chained to this CCF: EXIT_ID, 0: none */
	struct ccf_exit exit[CCF_EXITS];
};

/* A field of a unit that depends on where it is (reloc.c). */
enum reloc_kind {
	R_ADDR,	 /* 8 bytes: rip + off */
	R_MINUS, /* 8 bytes: check_bias() - (rip + off) */
	R_TABLE, /* 4: where in the delta table the slot of rip + off is */
	R_HOST,	 /* 4: its offset in the TC + off */
	R_STUB,	 /* 4: rel32 to offset off in the TC */
	R_GUESS, /* 4: off, and whatever it is, the code is right */
};
struct reloc {
	int32_t off;
	uint16_t at;
	uint8_t kind;
};
#define TMPL_BITS 15
#define RELOC_MAX (2 * TU_MAX + 16) /* of one unit */
_Static_assert(RELOC_MAX <= 255, "n_reloc");
#define TMPL_COPIES 7
#define TMPL_WAYS   4u
struct tmpl {
	uint64_t key;		    /* reloc.c; 0: free */
	uint32_t src;		    /* the newest unit translated */
	uint32_t copy[TMPL_COPIES]; /* newest first; ids may be stale */
};

/* The copies of one page that a context has (reloc.c). */
#define GROUP_BITS 12
#define GROUP_WAYS 4u
#define GROUP_MAX  128u
struct page_group {
	uint64_t vpage;
	uint32_t ppn;
	uint16_t life;
	uint8_t mode;
	uint8_t n; /* of id; 0: there is none. They may be stale */
	uint32_t id[GROUP_MAX];
};

/* A place that faults again and again (site.c). */
struct site {
	uint32_t ppn;
	uint16_t off, faults;
	uint8_t level;
	bool careful; /* its units touch before they access */
	bool settled; /* it hits too often for that */
	uint32_t hits, misses;
};
#define SITE_BITS 8
#define NR_SITES  (1u << SITE_BITS)

/* An answer of CPUID (cpuid.c). */
struct cpuid_kept {
	bool there;
	uint32_t leaf, sub;
	uint64_t xcr0;
	struct cpuid_regs r;
};
#define CPUID_BITS 6

#define BT_STATS(X, S)                                                         \
	X(S, translations, "translation units translated")                     \
	X(S, copies, "units copied from a translation for another address")    \
	X(S, moves, "such copies moved on with their page")                    \
	X(S, guest_insns, "guest instructions translated")                     \
	X(S, guest_bytes, "bytes of guest code translated")                    \
	X(S, host_bytes, "bytes of host code generated")                       \
	X(S, translate_cycles, "TSC cycles of translating, decoding included") \
	X(S, translate_timed, "instructions that these cycles were spent on")  \
	X(S, decoded, "instructions that Zydis decoded: of no known shape")    \
	X(S, ident, "instructions copied as they are")                         \
	X(S, chained, "exits chained")                                         \
	X(S, straight, "of these, to the unit behind it, by no jump")          \
	X(S, chain_misses, "times an exit that was not chained was taken")     \
	X(S, ibtc_misses, "indirect branches that the table had no entry for") \
	X(S, ibtc_fills, "indirect-branch table entries filled")               \
	X(S, ibtc_flushes, "indirect-branch table flushes")                    \
	X(S, ctx_switches, "changes to the table of another address space")    \
	X(S, unpaired, "units dropped for calls that were not paired")         \
	X(S, fast_exits, "exits handled without saving vector state")          \
	X(S, entries, "entries into the translation cache")                    \
	X(S, callouts, "callouts to the system semantics")                     \
	X(S, cpuids, "CPUIDs answered without one")                            \
	X(S, cr3s, "writes of CR3 done without one")                           \
	X(S, faults_hidden, "host faults that filled a window")                \
	X(S, faults_slow, "host faults that went to the interpreter")          \
	X(S, faults_direct, "page faults of the guest delivered at once")      \
	X(S, prefills, "pages filled when the guest came back from a fault")   \
	X(S, touches, "faults foreseen at sites that keep faulting")           \
	X(S, sites, "times that a place became such a site")                   \
	X(S, sites_settled, "times that one was one no longer")                \
	X(S, polls, "polls that stopped the guest")                            \
	X(S, smc_pages, "pages whose translations were dropped")               \
	X(S, smc_writes, "guest writes to pages with translations")            \
	X(S, units_live, "units in the translation cache now")                 \
	X(S, exits, "their exits that can be chained")                         \
	X(S, exits_chained, "of these, chained now")                           \
	X(S, tc_bytes, "bound of the translation cache, bytes")                \
	X(S, tc_used, "bytes of it in use")                                    \
	X(S, tc_peak, "the most that was ever in use")                         \
	X(S, tc_large, "bytes of it on pages of 2 MiB")                        \
	X(S, tc_evictions, "regions of it evicted to make room")               \
	X(S, tc_evicted, "units that went with them")                          \
	X(S, tc_flushes, "flushes of the whole translation cache")             \
	X(S, interp_insns, "instructions left to the interpreter")             \
	X(S, interp_mode, "of these: 16- and 32-bit code, steps, shadows")     \
	X(S, interp_fetch, "of these: fetches that fault or are not of RAM")   \
	X(S, lockstep_tus, "units compared with the interpreter")
#define BT_STAT_FIELD(S, n, h) uint64_t n;
struct bt_stats {
	BT_STATS(BT_STAT_FIELD, )
};

/* The TC begins with jumps out, for checks that fail and for exits that are not
 * chained, and with what returns do that lead to no pad. */
#define TC_MISS_STUB  0
#define TC_CHAIN_STUB 16
#define TC_RET_STUB   32 /* a return that bt_ret has nothing for */
#define TC_JMP_STUB   35 /* its end: to r11, through the IBTC */
#define TC_START      64
/* In front of each checked entry: where a check that fails leads, mov and jmp;
 * and the CCF's id. */
#define TC_HEADER     12
#define TC_ALIGN      8

#define TC_LARGE_MAX  512 /* blocks of 2 MiB */

#define TC_REGIONS    8
struct tc_region {
	uint32_t used; /* bytes from the beginning */
	uint32_t cold; /* and from the end */
	uint32_t n_ccf, n_recov, n_reloc;
};
/* At most, of one CCF. */
#define CCF_MAX_BYTES (256 + 200 * TU_LOOP_MAX)
#define CCF_MAX_COLD  128
#define CCF_MAX_RECOV (4 * TU_LOOP_MAX + 8)
#define CCF_STUB      11 /* bytes of an exit's stub */
/* And of what goes before it in a unit with paired calls, and before the code of
 * one that is called: mov rsp, r10 */
#define CALL_ENTRY    3

struct lockstep;
struct itlb_entry {
	uint64_t vpage; /* rip >> 12 */
	uint64_t epoch;
	uint32_t ppn;
	uint8_t user;
};
#define ITLB_SIZE  512
#define UEXEC_MAX  4096
#define UEXEC_HASH 8192
/* Pages that a context's view was filled from (ibtc.c). */
struct exec_set {
	struct {
		uint64_t vpage;
		uint32_t ppn;
	} page[UEXEC_MAX];
	uint16_t hash[UEXEC_HASH]; /* index + 1; 0: free */
	unsigned n;
	uint64_t gen;  /* changes with the set */
	uint16_t life; /* how often it was emptied */
	/* Address spaces (shadow_space_epoch) that were seen to have it. */
	struct {
		uint64_t epoch, gen;
	} ok[8];
	uint64_t used; /* when last */
	uint64_t root; /* and by which address space */
};

/* Of an address space: its context, and how often it found that emptied. */
struct home {
	uint64_t root; /* | 1; 0: none */
	unsigned ctx, clashes;
};

struct bt {
	struct vm *vm;
	struct vcpu *v;
	struct p2m *p2m;
	struct shadow *sh;

	int tc_fd;
	uint8_t *rx, *rw;		    /* two mappings of the TC */
	uint8_t tc_large[TC_LARGE_MAX / 8]; /* collapsed (tc_large.c) */
	uint64_t tc_size;
	struct tc_region region[TC_REGIONS];
	uint64_t tc_memory; /* at most since the last trim */
	unsigned tc_cur;    /* the one being filled */
	uint32_t region_bytes, region_ccf, region_recov, region_reloc;
	struct ccf *ccf;
	struct recov *recov;
	struct reloc *reloc;
	struct tmpl *tmpl; /* by (PPN, offset, mode) (reloc.c) */
	struct page_group *group;
	uint32_t max_ccf, max_recov, max_reloc;
	uint32_t *hash;
	unsigned hash_bits;
	uint32_t *page_head; /* by PPN */
	uint64_t max_ppn;

	uint8_t *view[NR_VIEWS]; /* T of CPL 0's view and of CPL 3's */
	void **ibtc[NR_VIEWS];
	int miss_fd;	      /* a few pages of misses */
	bool cold;	      /* at rest: the IBTC is not filled */
	uint32_t cold_misses; /* since TSC cold_since */
	uint64_t cold_since;
	uint32_t ibtc_log_n[NR_VIEWS];
	uint16_t *ibtc_log[NR_VIEWS];
	/* Exits chained across pages. */
	uint32_t *cross_log[NR_VIEWS], n_cross[NR_VIEWS];
	void *ibtc_miss;	     /* what empty entries hold */
	unsigned ctx;		     /* of the running address space */
	struct exec_set *set;	     /* of each context */
	struct home home[CTX_HOMES]; /* where an address space's code is */
	uint64_t ctx_clock;

	struct itlb_entry itlb[ITLB_SIZE];
	uint64_t kern_epoch, epoch_next;
	/* Blooms, by half: pages (and large pages) that the ITLB, of any
	 * space, or the IBTC may have; but small ones of user code are not in
	 * here (exec_maybe). What clears them empties the ITLB. */
	uint8_t exec_seen[2][8192], exec_large[2][8192];
	unsigned n_exec_seen[2];
	bool exec_huge[2];
	uint64_t user_gen;

	ZydisDecoder dec;
	struct shapes *shapes; /* decode.c */
	struct tu *tu;	       /* the one that is being translated */
	unsigned tu_max;
	bool chain, lockstep, count, pair_all, touch_all;
	bool xgetbv1; /* the host has XGETBV with ECX = 1, and XSAVEC */
	uint8_t mode; /* of the running vCPU */
	enum shadow_fill last_fill; /* of the last host fault */
	bool fault_is_access;	    /* it was a page fault */
	struct {
		bool write;	     /* HOT_PF_PENDING tells if any */
		uint8_t cpl, others; /* IRETs to other places since */
		uint64_t rip, gva;
	} pf;			      /* the last one delivered by pf.c */
	enum cpu_status event_status; /* of BT_EXIT_EVENT */
	bool kern_loose; /* view 0 has code that a CR3 write may change */
	bool started;
	uint32_t pend_from; /* exit to chain to the next unit, or 0 */
	unsigned pend_exit;
	bool pend_ibtc;
	bool pend_call; /* the next unit translated is to have a call entry */
	bool irq_pending;
	bool pair_due; /* the running context has just begun to pair */
	struct lockstep *ls;
	uint8_t *altstack;

	struct cpuid_kept cpuid[1 << CPUID_BITS];
	struct site site[NR_SITES];
	bool site_due; /* units of a place are to go: */
	uint32_t due_ppn;
	uint16_t due_off;

	uint16_t *smc_count; /* by PPN (sparse): data writes to code pages */
	struct bt_stats stats;
	struct stat_group stat_group;
	struct stat_group executed_group;
	struct reasons reasons;
	struct phases phases;
	uint32_t recovered; /* CCF of the last bt_recover */
};

/* The mode that code running now is kept under. */
static inline uint8_t bt_key(const struct bt *bt)
{
	return bt->mode & MODE_USER ? bt->mode | MODE_CTX(bt->ctx) : bt->mode;
}

/* tu.c: decode one unit. */
void tu_init(void);
/* 0, or -EFAULT: not even the first instruction can be fetched whole. */
int tu_decode(struct bt *bt, uint64_t rip, uint32_t ppn, struct tu *tu);
bool tu_ends(const struct tu_insn *in);
enum insn_kind tu_classify(struct bt *bt, const struct tu_insn *in);
/* decode.c. 0 or -ENOMEM; fini also after that. */
int decode_init(struct bt *bt);
void decode_fini(struct bt *bt);
/* Give memory back. */
void decode_trim(struct bt *bt);
/* What is in bytes[0..avail), for the running mode, but for in->rip. False: that
 * is no instruction, which is left to the interpreter as a K_CALLOUT of one byte,
 * which raises the right exception; or (short_of) it goes on past avail < 15. */
bool decode_insn(struct bt *bt, struct tu_insn *in, const uint8_t *bytes,
		 unsigned avail, bool *short_of);
/* What Zydis says, into in: all but rip, bytes and kind. */
void decode_take(struct tu_insn *in, const ZydisDecodedInstruction *z,
		 const ZydisDecodedOperand *op);

/* translate.c: never fails, but may evict other CCFs (tc_begin). */
uint32_t bt_translate(struct bt *bt, const struct tu *tu);
/* The same into c, zeroed but for host, recov and reloc, with code at `code`, and
 * kept nowhere. */
void translate_into(struct bt *bt, const struct tu *tu, struct ccf *c,
		    uint8_t *code);

/* tc.c: memory. bytes: VM_TC_MIN to VM_TC_MAX, else -EINVAL. */
int tc_init(struct bt *bt, uint64_t bytes);
void tc_fini(struct bt *bt);
/* A new CCF, zeroed but for host, recov and reloc, with room for CCF_MAX_BYTES at
 * rw + host, CCF_MAX_COLD below, CCF_MAX_RECOV recovery entries and RELOC_MAX
 * fields. May evict a region: only the
 * engine's loop may come here, never while translated code is interrupted. */
/* rip: the unit's, so that it may follow one that leads there. */
uint32_t tc_begin(struct bt *bt, uint64_t rip);
/* The same, not zeroed. */
uint32_t tc_place(struct bt *bt, uint64_t rip);
/* Would tc_place evict nothing? */
bool tc_has_room(const struct bt *bt);
/* It is made (host_len, n_recov, n_reloc, exits, pads, direct; check, if it has one in
 * front): keep it. Writes its cold part. */
void tc_commit(struct bt *bt, uint32_t id);
/* Drop everything. */
void tc_flush(struct bt *bt);
/* After tc_flush: give the memory behind it back to the host. */
void tc_trim(struct bt *bt);
/* Bytes of memory that the TC and the books of its CCFs take. */
uint64_t tc_memory(struct bt *bt);
/* CCF that holds host TC offset, 0: none. */
uint32_t tc_find(struct bt *bt, uint32_t host);
const struct recov *tc_recov(struct bt *bt, uint32_t id, uint32_t host);

/* tc_large.c: the TC on large pages. A mapping of it; a unit has been placed (not
 * from fast.c: libc); the memory behind it has been given back. */
uint8_t *tc_large_map(int fd, size_t bytes, int prot);
void tc_large_look(struct bt *bt, const struct ccf *c);
void tc_large_trim(struct bt *bt);

/* Entry of the delta table for an address's slot, as a displacement of rT. */
static inline int32_t table_disp(uint64_t gva)
{
	return BT_D_TABLE + (int32_t)((gva >> 39) * 8);
}

/* reloc.c: a new unit has been translated; make one for (rip, ppn) from a
 * template. 0: there is none; or (fast: the guest's vector registers are in
 * place) it takes more than fast.c may do. */
void reloc_learn(struct bt *bt, uint32_t id);
/* Write the field r of c, whose code is at `code`. */
void reloc_put(const struct ccf *c, uint8_t *code, const struct reloc *r);
/* from: the unit that the jump comes from, or 0. */
uint32_t reloc_copy(struct bt *bt, uint64_t rip, uint32_t ppn, uint32_t from,
		    bool fast);
/* An exit of this unit out of its page has just been chained as it was in a life
 * before: so may others of its page be now. */
void reloc_chain(struct bt *bt, uint32_t id);

/* translate_cold.c: set c->cold_len; write what belongs at c->cold, with no exit chained
 * and no successor in the IBTC. */
void cold_size(struct ccf *c);
/* Before the first unit: is LOOP slow here? */
void cold_init(bool slow_loop);
int64_t check_bias(void);
void cold_put(struct bt *bt, uint32_t id);
/* Only its rip has changed, and it is not in the IBTC. */
void cold_move(struct bt *bt, uint32_t id);
static inline unsigned ccf_stub_bytes(const struct ccf *c)
{
	return c->n_pad ? CALL_ENTRY + CCF_STUB : CCF_STUB;
}
static inline uint32_t ccf_stub(const struct ccf *c, unsigned exit)
{
	return c->cold + exit * ccf_stub_bytes(c);
}
/* Write what exit e's stub holds while nothing is chained to it; and have it lead
 * to TC offset `to`, for a call to a unit that has no call entry. */
void cold_put_stub(struct bt *bt, uint32_t id, unsigned e);
void cold_lead_stub(struct bt *bt, uint32_t id, unsigned e, uint32_t to);
/* The rel32 of the jump for when c's check fails, a TC offset. */
static inline uint32_t ccf_miss(const struct ccf *c)
{
	return c->checked - 8;
}

/* ccf.c: books. */
/* Would ccf_insert not make the table anew? */
bool ccf_hash_has_room(const struct bt *bt);
int ccf_hash_init(struct bt *bt);
void ccf_hash_fini(struct bt *bt);
void ccf_hash_reset(struct bt *bt);
void ccf_hash_trim(struct bt *bt);
/* tc.c's: enter a new one; take one of a region that is being evicted out
 * of everything; empty the lists of its pages (when all CCFs go). */
void ccf_insert(struct bt *bt, uint32_t id);
void ccf_evict(struct bt *bt, uint32_t id);
/* Out of everything but the lists of its pages, to be moved to another rip; and
 * back in. */
void ccf_unlink(struct bt *bt, uint32_t id);
void ccf_relink(struct bt *bt, uint32_t id);
void ccf_forget_pages(struct bt *bt, uint32_t id);
/* It is for another rip of the same offset now. Chains within its page stay:
 * ccf_moved, when all of them have been moved, undoes those that are wrong. */
void ccf_move(struct bt *bt, uint32_t id, uint64_t rip);
void ccf_moved(struct bt *bt, uint32_t id);
/* It is about to be: the memory that this needs may come. */
void ccf_move_soon(struct bt *bt, uint32_t id, uint64_t rip);
/* The unit of that key, or 0. One that lies on two pages is found only while the
 * second is in the ITLB; tc_straddles tells whether there may be such a one. */
uint32_t tc_lookup(struct bt *bt, uint64_t rip, uint32_t ppn, uint8_t mode);
bool tc_straddles(struct bt *bt, uint64_t rip, uint32_t ppn, uint8_t mode);
void tc_chain(struct bt *bt, uint32_t from, unsigned exit, uint32_t to);
/* Have exit e of c, whose code is in the TC, lead to TC offset to; and where does
 * it lead? */
void ccf_lead(struct bt *bt, const struct ccf *c, unsigned e, uint32_t to);
uint32_t ccf_leads(const struct bt *bt, const struct ccf *c, unsigned e);
/* If c ends in a conditional jump and a jump: have their exits change places.
 * Neither of them leads anywhere after that. False: it does not end so. */
bool ccf_turn(struct ccf *c, uint8_t *code);
/* Exit e has been taken, and its target is about to be translated. */
void ccf_make_last(struct bt *bt, uint32_t id, unsigned e);
/* Does it end in a jump to rip, not chained? */
bool ccf_falls_to(const struct bt *bt, uint32_t id, uint64_t rip);
/* An exit that leads out of its page goes back to its stub, if it is chained. */
void ccf_unchain_cross(struct bt *bt, uint32_t id, unsigned exit);
/* Does exit e of c lead out of c's page? */
static inline bool ccf_crosses(const struct ccf *c, unsigned e)
{
	return c->exit[e].cross;
}
/* Drop every CCF of a page / those that overlap [off, off+len) of it. Answers
 * how many. */
unsigned tc_drop_page(struct bt *bt, uint32_t ppn, unsigned off, unsigned len);

/* Drop those of a page and mode that have calls or returns which are not paired. */
void tc_drop_unpaired(struct bt *bt, uint32_t ppn, uint8_t mode);

/* ibtc.c */
int ibtc_init(struct bt *bt);
/* The table of view v, BT_IBTC_BYTES at `at`. */
int ibtc_map(struct bt *bt, unsigned v, void *at);
void ibtc_fini(struct bt *bt);
/* Emptied (ibtc_flush): give its memory back, and rest. */
void ibtc_trim(struct bt *bt);
void ibtc_fill(struct bt *bt, uint32_t id);
/* Take one CCF out of it. */
void ibtc_clear(struct bt *bt, uint32_t id);
/* Shall calls of code that is translated now be paired with their returns? */
bool ret_pairs(const struct bt *bt);
/* pair_due: what the context has from before shall be, too. Not while translated
 * code is interrupted. */
void ret_pair_all(struct bt *bt);
/* Forget where returns go on: all of CPL 0 or of CPL 3; those to the CCF. */
void ret_clear(struct bt *bt, bool user);
void ret_forget(struct bt *bt, const struct ccf *c);
/* The entry for the return address of a call in code of that mode. */
static inline uint64_t *ret_entry(struct bt *bt, unsigned mode, uint64_t rip)
{
	return &bt->v->bt_ret[!!(mode & MODE_USER)][rip & 255];
}
/* Is the page in the set of any context? */
bool ibtc_uses(struct bt *bt, uint64_t vpage);
/* Forget the view's entries and its chains across pages. */
void ibtc_flush(struct bt *bt, unsigned view);
/* Those of all contexts. */
void ibtc_flush_user(struct bt *bt);
/* CR3, or what it leads to, has changed: go on in a context that is right for
 * it. */
void ibtc_choose(struct bt *bt);
/* Which context would that be for the space of this root, which is at this epoch, if
 * nothing has to be walked for or emptied? Else -1. And: go on in it; CR3 has been
 * written. */
int ibtc_known(struct bt *bt, uint64_t root, uint64_t epoch);
void ibtc_take(struct bt *bt, unsigned ctx);
/* An exit out of its page is about to be chained. May flush the view. */
void ibtc_note_cross(struct bt *bt, uint32_t from, unsigned exit, uint32_t to);

/* account.c: statistics of the engine's loop. Register the groups; the callout at v->rip, which
 * bt_recover has just found; the fault that last_fill is of; a unit whose
 * translation began at TSC start. */
void account_init(struct bt *bt);
void account_callout(struct bt *bt);
void account_fault(struct bt *bt);
void account_translation(struct bt *bt, const struct ccf *c, uint64_t start);

/* tc_audit.c: recount everything (tests). 0 or -EUCLEAN, and says what. */
int tc_audit(struct bt *bt);
/* reloc_audit.c: is each unit that may be moved what a translation at its address
 * would be? (Tests.) 0 or -EUCLEAN, and says what. */
int reloc_audit(struct bt *bt);

/* exec.c: which page does code come from. */
static inline uint64_t exec_epoch(struct bt *bt, uint64_t rip)
{
	return rip >> 63 ? bt->kern_epoch
			 : shadow_space_epoch(bt->sh) ^ bt->user_gen << 40;
}
static inline bool exec_cached(struct bt *bt, uint64_t rip, uint32_t *ppn)
{
	struct itlb_entry *e = &bt->itlb[(rip >> 12) % ITLB_SIZE];

	if (e->vpage != rip >> 12 || e->epoch != exec_epoch(bt, rip) ||
	    e->user != (bt->mode & MODE_USER))
		return false;
	/* The kernel's view is to rely on what CR3 says: exec_page notes that. */
	if (!e->user && !(rip >> 63) && !bt->kern_loose)
		return false;
	*ppn = e->ppn;
	return true;
}
/* Walks; false: fetch faults or the page is not RAM. */
bool exec_page(struct bt *bt, uint64_t rip, uint32_t *ppn);

/* entry.S */
int bt_enter(struct vcpu *v); /* BT_EXIT_* */
extern const char bt_exit_chain[], bt_exit_ibtc[], bt_exit_callout[];
extern const char bt_exit_fault[], bt_do_syscall[], bt_do_sysret[];
/* stubs.S: where its accesses to guest memory are, and where a fault that
 * cannot be mended leads. Ends with 0. */
extern const char bt_do_iret[], bt_do_xsave[], bt_do_xsavec[], bt_do_xrstor[];
extern const char bt_do_touch[], bt_do_cpuid[], bt_do_cr3[];
struct bt_stub_fault {
	uint64_t pc, fixup;
};
extern const struct bt_stub_fault bt_stub_faults[];
void bt_signal_entry(int sig, siginfo_t *si, void *uc);

/* site.c. The careful site of a physical place, or -1. */
int site_find(struct bt *bt, uint32_t ppn, unsigned off);
/* The instruction that bt_recover found faulted, and not for want of a page in
 * its window alone. */
void site_fault(struct bt *bt);
/* Drop the units that are due. Not while translated code is interrupted. */
void site_apply(struct bt *bt);
/* BT_EXIT_TOUCH: where; and after it, if it has settled. */
struct site *site_missed(struct bt *bt);
void site_settle(struct bt *bt, struct site *s);
/* From stubs.S, no vector registers, no TLS: 0, leave by BT_EXIT_TOUCH. */
unsigned bt_touch(struct vcpu *v, uint64_t hva, unsigned write);

/* cpuid.c. From stubs.S, no vector registers, no TLS: the answer if it is known,
 * else NULL. CPUID is about to be called out: keep the answer. */
const struct cpuid_regs *bt_cpuid(struct vcpu *v, uint32_t leaf, uint32_t sub);
void bt_cpuid_keep(struct bt *bt);

/* cr3.c. From stubs.S, no vector registers, no TLS: MOV CR3, if there is nothing to
 * look at; else 0, and nothing has been done. */
unsigned bt_cr3(struct vcpu *v, uint64_t val);

/* fast.c: no vector registers, no TLS. Host PC to go on at, or 0. */
uint64_t bt_fast_dispatch(struct vcpu *v);

/* What translated code does not do. */
static inline bool bt_interp_only(const struct vcpu *v)
{
	return !vcpu_code64(v) || v->irq_shadow || (v->rflags & FL_TF) ||
	       v->cpl == 1 || v->cpl == 2;
}

/* fault.c */
int bt_fault_init(struct bt *bt);
void bt_fault_fini(struct bt *bt);
/* BT_SIG_* */
int bt_signal(int sig, siginfo_t *si, void *uc, void *frame);
/* Registers at TC offset host are in v->gpr (RSP guest form): finish them and
 * set v->rip. */
enum recov_kind bt_recover(struct bt *bt, uint32_t host);

/* pf.c: state is recovered, and shadow_fill answered SHADOW_PF. Delivers the #PF:
 * in the signal handler, BT_SIG_ENTER or BT_SIG_LEAVE; in the engine's loop. */
int bt_pf_deliver(struct bt *bt);
enum cpu_status bt_pf_raise(struct bt *bt);
/* The guest is back at the instruction that faulted. */
void bt_pf_fill(struct bt *bt);
static inline bool bt_pf_back(const struct bt *bt)
{
	return bt->v->rip == bt->pf.rip && bt->v->cpl == bt->pf.cpl;
}

/* lockstep.c */
void lockstep_before(struct bt *bt, uint32_t id);
enum cpu_status lockstep_after(struct bt *bt, uint32_t id);

/* sync.c: C state <-> the hot words */
void bt_sync_mode(struct bt *bt);
void bt_sync_in(struct bt *bt);
/* The host forms of RSP, and of the FS and GS bases. From cr3.c, too: no vector
 * registers. */
void bt_sync_rsp(struct bt *bt, uint64_t rsp);
void bt_sync_bases(struct bt *bt);
void bt_sync_out(struct bt *bt);
#endif
