/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/report_fields.h"

#include <string.h>

#include "mm/types.h"
#include "vmm/cli/report.h"

#define AT(st, f)     .name = #f, .offset = offsetof(struct st, f)
#define U64(st, f, m) AT(st, f), .kind = REPORT_U64, .metric = METRIC_##m
#define TEXT(st, n, f)                                                         \
	.name = n, .kind = REPORT_STR, .offset = offsetof(struct st, f),       \
	.size = sizeof(((struct st *)0)->f)

/* clang-format off */
static const struct report_field host_fields[] = {
	{U64(report, budget_bytes, GAUGE),
	 .help = "host memory that the VMs may use together"},
	{U64(report, used_bytes, GAUGE),
	 .help = "host memory in use: private, pool, overhead and store"},
	{U64(report, pool_bytes, GAUGE),
	 .help = "frames of the pools, each shared by several pages"},
	{TEXT(report, "state", host_state), .metric = METRIC_STATE,
	 .help = "how the use of memory stands to the budget"},
	{U64(report, available_bytes, GAUGE), .optional = true,
	 .help = "memory that the host's kernel could still give"},
	{U64(report, seconds, GAUGE), .optional = true,
	 .metric_name = "uptime_seconds",
	 .help = "time since the manager started"},
	{TEXT(report, "audit", audit), .optional = true,
	 .help = "result of the recount from scratch at the end"},
	{U64(report, store_bytes, GAUGE), .optional = true,
	 .help = "host memory that holds compressed pages"},
	{U64(report, swap_bytes, GAUGE), .optional = true,
	 .help = "space of the swap file in use"},
};

static const struct report_field vm_fields[] = {
	{TEXT(report_vm, "name", name), .title = "NAME", .width = 12,
	 .help = "name of the VM"},
	{AT(report_vm, pid), .kind = REPORT_I64,
	 .help = "process of its monitor, 0 when it has ended"},
	{TEXT(report_vm, "state", state), .metric = METRIC_STATE,
	 .title = "STATE", .width = 9, .drop = 1,
	 .help = "what the VM is doing"},
	{U64(report_vm, configured_bytes, GAUGE), .title = "CONFIGURED",
	 .width = 10, .drop = 3,
	 .help = "memory that the guest was told it has"},
	{U64(report_vm, granted_bytes, GAUGE), .optional = true,
	 .title = "GRANTED", .width = 9, .drop = 6,
	 .help = "host memory that the policy wants it to have"},
	{U64(report_vm, active_bytes, GAUGE), .optional = true,
	 .title = "ACTIVE", .width = 9, .drop = 5,
	 .help = "memory that it uses, by sampling"},
	{U64(report_vm, private_bytes, GAUGE), .title = "PRIVATE", .width = 9,
	 .help = "host memory that it has to itself"},
	{U64(report_vm, shared_bytes, GAUGE), .title = "SHARED", .width = 9,
	 .drop = 2, .help = "its pages that lie on frames of the pool"},
	{U64(report_vm, zero_bytes, GAUGE), .title = "ZERO", .width = 9,
	 .drop = 8, .help = "its pages with nothing behind them"},
	{U64(report_vm, ballooned_bytes, GAUGE), .optional = true,
	 .title = "BALLOONED", .width = 9, .drop = 5,
	 .help = "its pages that its balloon driver has given back"},
	{U64(report_vm, guest_free_bytes, GAUGE), .optional = true,
	 .help = "memory that is free, as the guest says"},
	{U64(report_vm, guest_available_bytes, GAUGE), .optional = true,
	 .help = "memory that it could have without swapping, as it says"},
	{U64(report_vm, compressed_bytes, GAUGE), .optional = true,
	 .title = "COMPRESSED", .width = 10, .drop = 4,
	 .help = "its pages that are kept compressed"},
	{U64(report_vm, swapped_bytes, GAUGE), .optional = true,
	 .title = "SWAPPED", .width = 9, .drop = 4,
	 .help = "its pages that are in the swap file"},
	{U64(report_vm, store_bytes, GAUGE), .optional = true,
	 .title = "STORE", .width = 7, .drop = 6,
	 .help = "host memory that its compressed pages take"},
	{U64(report_vm, decompressed_pages, COUNTER), .optional = true,
	 .help = "pages that came back from being compressed"},
	{U64(report_vm, decompress_p99_us, GAUGE), .optional = true,
	 .help = "99% of these touches waited for less, a power of two"},
	{U64(report_vm, swapped_in_pages, COUNTER), .optional = true,
	 .help = "pages that came back from the swap file"},
	{U64(report_vm, swap_in_p99_us, GAUGE), .optional = true,
	 .help = "99% of the touches of these waited for less, a power of two"},
	{U64(report_vm, fetched_pages, COUNTER), .optional = true,
	 .help = "of those that came back, the ones that nothing waited for"},
	{U64(report_vm, wait_ms, GAUGE), .optional = true,
	 .help = "time that it stood still for want of memory"},
	{U64(report_vm, large_bytes, GAUGE), .optional = true,
	 .help = "its memory that lies on host pages of 2 MiB"},
	{U64(report_vm, overhead_bytes, GAUGE), .title = "OVERHEAD",
	 .width = 9, .drop = 7,
	 .help = "memory and page tables of its monitor process"},
	{U64(report_vm, boot_ms, GAUGE), .title = "BOOT ms", .width = 8,
	 .drop = 9, .not_yet_zero = true,
	 .help = "time from the start of the VM to its userland"},
};

static const struct report_field sharing_fields[] = {
	{U64(report, saved_bytes, GAUGE),
	 .help = "memory that sharing saves now"},
	{U64(report, oracle_bytes, NONE),
	 .help = "what perfect sharing would save, where it was measured"},
	{U64(report, merged_pages, COUNTER),
	 .help = "pages that were put onto a frame of the pool"},
	{U64(report, broken_pages, COUNTER),
	 .help = "shared pages that were written again"},
	{U64(report, scanned_pages, COUNTER),
	 .help = "pages that were read and hashed"},
	{AT(report, oracle_valid), .kind = REPORT_BOOL, .optional = true,
	 .help = "whether oracle_bytes was measured"},
	{U64(report, zero_merged_pages, COUNTER), .optional = true,
	 .help = "pages that were found zero and given back"},
};
/* clang-format on */

const struct report_section report_host = {"host", host_fields,
					   ARRAY_SIZE(host_fields)};
const struct report_section report_vm_section = {"vm", vm_fields,
						 ARRAY_SIZE(vm_fields)};
const struct report_section report_sharing = {"sharing", sharing_fields,
					      ARRAY_SIZE(sharing_fields)};

uint64_t report_field_value(const struct report_field *f, const void *base)
{
	const void *p = (const char *)base + f->offset;

	return f->kind == REPORT_BOOL ? *(const bool *)p : *(const uint64_t *)p;
}

const char *report_field_text(const struct report_field *f, const void *base)
{
	return (const char *)base + f->offset;
}

const struct report_field *report_field_find(const struct report_section *s,
					     const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->fields[i].name, name))
			return &s->fields[i];
	return NULL;
}

bool report_field_unit(const struct report_field *f, const char *unit)
{
	size_t n = strlen(f->name), u = strlen(unit);

	return n > u && !strcmp(f->name + n - u, unit);
}

void report_section_clear(const struct report_section *s, void *base)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct report_field *f = &s->fields[i];
		void *p = (char *)base + f->offset;

		switch (f->kind) {
		case REPORT_U64:
			*(uint64_t *)p = f->optional ? REPORT_ABSENT : 0;
			break;
		case REPORT_I64:
			*(int64_t *)p = 0;
			break;
		case REPORT_BOOL:
			*(bool *)p = false;
			break;
		case REPORT_STR:
			memset(p, 0, f->size);
			break;
		}
	}
}
