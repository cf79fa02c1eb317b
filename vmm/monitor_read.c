/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages come one by one, in the middle of a device's turn; they are collected
 * and told together at the next boundary of the vCPU thread. What does not fit,
 * or what the socket does not take, is only a hint lost: such a page is noted,
 * or collected, and the scanner finds it in its own time.
 */
#include "vmm/monitor_read.h"

#include <sys/socket.h>

#include "mm/p2m_share.h"
#include "mm/sharing/share.h"

static void tell(struct monitor_read *r, struct share_msg *m)
{
	if (m->n)
		(void)!send(r->socket_fd, m, share_msg_bytes(m),
			    MSG_DONTWAIT | MSG_NOSIGNAL);
	m->n = 0;
}

/* vCPU thread. */
static void tell_all(struct vm *vm, struct vm_work *w)
{
	struct monitor_read *r = container_of(w, struct monitor_read, work);
	struct share_msg m = {.type = SHARE_MSG_READ};

	r->posted = false;
	for (unsigned i = 0; i < r->n; i++) {
		if (!p2m_collect_page(vm->p2m, (ppn_t){r->ppn[i]}))
			continue;
		m.ppns[m.n++] = r->ppn[i];
		if (m.n == SHARE_BATCH)
			tell(r, &m);
	}
	tell(r, &m);
	r->n = 0;
}

/* vCPU thread, under the device lock. */
static void page_read(void *ctx, ppn_t ppn)
{
	struct monitor_read *r = ctx;

	if (r->n == MONITOR_READ_PAGES || ppn.n > UINT32_MAX)
		return;
	r->ppn[r->n++] = (uint32_t)ppn.n;
	if (r->posted)
		return;
	r->posted = true;
	vm_post(r->vm, &r->work);
}

void monitor_read_init(struct monitor_read *r, struct vm *vm, int socket_fd)
{
	*r = (struct monitor_read){
		.work.fn = tell_all, .vm = vm, .socket_fd = socket_fd};
	vm->page_read_ctx = r;
	vm->page_read = page_read;
}
