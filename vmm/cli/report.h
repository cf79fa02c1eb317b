/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_REPORT_H
#define SARDINE_VMM_CLI_REPORT_H
/*
 * One sample of a running host: what `pack` and `top` show. The manager fills
 * it, sends it as JSON, and `top` reads it back. What is read back was written
 * by somebody else: report_from_json checks every type and bounds every
 * string, and names are printable ASCII afterwards.
 *
 * Each field is described in report_fields.c; those marked optional there are
 * REPORT_ABSENT until somebody knows them.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define REPORT_NAME    40
#define REPORT_REFUSED 16
#define REPORT_MAX_VMS 4096

struct report_vm {
	char name[REPORT_NAME];
	char state[16];
	int64_t pid; /* 0: none (any more) */
	uint64_t configured_bytes;
	uint64_t private_bytes;	 /* blocks of its own */
	uint64_t shared_bytes;	 /* pages on frames of the pool */
	uint64_t zero_bytes;	 /* pages with nothing behind them */
	uint64_t overhead_bytes; /* the monitor's own memory and page tables */
	/* Optional: */
	uint64_t granted_bytes, active_bytes;
	uint64_t ballooned_bytes, compressed_bytes, swapped_bytes;
	uint64_t store_bytes, wait_ms;
	uint64_t decompressed_pages, decompress_p99_us;
	uint64_t swapped_in_pages, swap_in_p99_us;
	uint64_t fetched_pages;
	uint64_t guest_free_bytes, guest_available_bytes;
	uint64_t large_bytes; /* on host pages of 2 MiB */
	uint64_t boot_ms;     /* start to userland; 0: not yet */
};

struct report_count {
	char name[REPORT_NAME];
	uint64_t count;
};

struct report {
	uint64_t budget_bytes, used_bytes, pool_bytes;
	char host_state[16];	  /* "ok", or with --host-mem "high", "soft",
				     "hard", "low" (mm/reclaim.h); "over":
				     used is more than budget */
	uint64_t available_bytes; /* MemAvailable of the host */
	uint64_t seconds;	  /* since the manager started */
	uint64_t store_bytes, swap_bytes; /* optional */

	struct report_vm *vms;
	size_t n_vms;

	uint64_t saved_bytes, oracle_bytes;
	bool oracle_valid; /* it was measured */
	uint64_t merged_pages, broken_pages, scanned_pages;
	uint64_t zero_merged_pages;
	struct report_count refused[REPORT_REFUSED];
	size_t n_refused;
	/* Pages that the reclaimers looked at, by what became of them. */
	struct report_count evict[REPORT_REFUSED];
	size_t n_evict;
	char audit[16]; /* "", "clean", "failed" */
};

/* All zero, what is optional absent. */
void report_init(struct report *r);
json_t *report_to_json(const struct report *r); /* NULL: out of memory */
/* 0, -EINVAL (not the shape), -ENOMEM. report_free afterwards. */
int report_from_json(const json_t *o, struct report *r);
void report_free(struct report *r);
/* Their sizes added up; what is absent in all of them stays absent. */
void report_total(const struct report *r, struct report_vm *total);
#endif
