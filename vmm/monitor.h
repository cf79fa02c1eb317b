/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MONITOR_H
#define SARDINE_VMM_MONITOR_H
/*
 * The monitor: the process of one VM under a manager (`sardine pack`).
 *
 * The manager makes it with a socket (SOCK_SEQPACKET), the guest's memfd, the
 * control area and the share group's pool (read-only), and no more. It loads
 * the kernel, confines itself, and runs the guest. On the socket come
 * proposals (mm/sharing/share.h) and nothing else; SIGTERM asks it to stop.
 * When the manager goes away the VM runs on: what is shared stays shared (the
 * pool's descriptor keeps it), nothing more becomes so, until a new manager
 * comes (vmm/adopt.h).
 */
#include <stddef.h>
#include <stdint.h>

#include "vmm/confine.h"
#include "vmm/vm.h"

struct monitor_config {
	struct vm_config vm; /* without memfd, pool_fd, control, console_* */
	int socket_fd;	     /* to the manager */
	int memfd;
	int control_fd;
	int pool_fd;	    /* or -1 */
	int store_fd;	    /* or -1 */
	int swap_fd;	    /* or -1 */
	int adopt_fd;	    /* where a new manager's offer comes, or -1 */
	int text_fd;	    /* of stderr, the end to read: for a new manager */
	int log_fd;	    /* console output goes there, or -1 */
	uint64_t log_max;   /* bytes of log at most; the rest is dropped */
	const char *marker; /* printed by the guest in userland, or NULL */
	enum confine_mode confine;
	void (*give_up)(void); /* ends the process at once: the guest's memory
				  is lost */
};

/*
 * Run the VM to its end. The caller has closed every descriptor that is not
 * named here (confine_close_fds) and given vm.kernel_fd and vm.initrd_fd. The
 * process must be single-threaded; afterwards it is
 * confined for good and should exit. *why is how the run ended; 0, or -errno
 * with a line in err when the VM could not be started. When the VM's audit
 * fails at the end, *why is EXIT_ERROR.
 */
int monitor_run(const struct monitor_config *cfg, enum vcpu_exit *why,
		char *err, size_t errlen);
#endif
