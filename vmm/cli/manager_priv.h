/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_MANAGER_PRIV_H
#define SARDINE_VMM_CLI_MANAGER_PRIV_H
/*
 * What the files of the manager share: its state and each VM's.
 *
 *   manager.c         making it, its loop, its end
 *   manager_start.c   a VM's memory and process
 *   manager_end.c     what is said and done when a VM's process has ended
 *   manager_sample.c  how things stand
 *   manager_reclaim.c the budget
 *   manager_balloon.c balloons
 *   manager_rest.c    VMs that have nothing to do
 *   manager_swap.c    swap files
 *   manager_command.c `sardine set`
 *   manager_stats.c   the monitors' counters
 *   manager_note.c    what a next manager must know
 *   manager_adopt.c   VMs of one that was killed
 */
#include <jansson.h>
#include <sys/types.h>

#include "mm/reclaim.h"
#include "vmm/adopt.h"
#include "vmm/cli/manager.h"

#define NS_PER_S   1000000000ull
#define RECLAIM_MS 100	/* between looks at the budget */
#define TEXT_MAX   4096 /* of a monitor's stderr that we keep */

struct control;
struct metrics;
struct claim;
struct sockaddr_un;

/* What an epoll event is about: kind in the upper half, index or fd below. */
enum source {
	SRC_SIGNAL,
	SRC_LISTEN,
	SRC_CLIENT,
	SRC_METRICS,
	SRC_INPUT,
	SRC_SOCKET,
	SRC_STDERR,
	SRC_COMMANDS,
	SRC_COMMANDER,
	SRC_CLAIM,
	SRC_PIDFD,
};
#define COMMANDERS 8 /* connections of `sardine set` at a time */

struct mvm {
	struct manager *m;
	unsigned index;
	char name[FLEET_NAME_MAX + 1];
	uint64_t mem;
	pid_t pid; /* 0: gone */
	int memfd, store_fd, swap_fd, control_fd, socket, text_fd;
	int pidfd; /* of one that is not our child, or -1 */
	struct control *control;
	size_t control_bytes;
	struct share_vm *share;
	struct share_group *group;
	int pool_fd; /* the group's */
	char group_name[FLEET_NAME_MAX + 1];
	uint64_t layout_seed; /* the group's */
	bool noted;	      /* in the directory of notes */
	const char *state;    /* of a process that has ended */
	bool told_up;	      /* the event was sent */
	bool told_silent;     /* it does not answer, and that was said */
	bool paused;
	uint64_t boot_ms;
	uint64_t start_ns, since_ns; /* its start; its being ours */
	uint64_t overhead, overhead_next_ns;
	uint64_t cache; /* the monitor's word for a part of it, then */
	struct mvm_reclaim {
		uint64_t shares, min, max;
		uint64_t used; /* memory of its own, as the kernel says */
		uint64_t quota, bound;
		uint64_t cache_seen; /* mm/control.h */
		uint64_t nudge_ns;
		bool told_waiting;
		uint64_t swap_bad[2],
			swap_told_ns; /* full; cannot be written */
		/* manager_balloon.c */
		uint64_t balloon, balloon_ns, oom_ns;
		uint64_t guest_seq, guest_oom, guest_actual;
		bool balloon_fixed; /* by `sardine balloon` */
	} re;
	char text[TEXT_MAX]; /* stderr */
	size_t text_len;
};

struct file_id {
	uint64_t dev, ino;
};

/* What is noted of a VM. */
struct vm_note {
	char name[FLEET_NAME_MAX + 1], group[FLEET_NAME_MAX + 1];
	uint64_t mem, min, max, shares, start_ns, layout_seed, balloon;
	bool paused, balloon_fixed;
	struct file_id file[ADOPT_FDS];
};

struct group {
	char name[FLEET_NAME_MAX + 1];
	struct share_group *g;
	uint64_t layout_seed; /* vmm/cpu/layout.h; 0: a layout for each VM */
	struct file_id pool;
};

struct manager {
	struct manager_config cfg;
	struct share_host *host;
	struct group *groups;
	size_t n_groups;
	struct mvm **vms;
	size_t n_vms;
	struct server *server;
	struct metrics *metrics; /* or NULL */
	int epfd, signals;
	int signal; /* that asks us to end */
	bool stopping;
	uint64_t start_ns, scan_ns; /* when the scanner wants to run */
	size_t engine_errors, failed;
	uint64_t reclaim_ns; /* when the budget is looked at next */
	uint64_t late_ns;    /* that it was looked at too late, at worst */
	enum reclaim_state reclaim_state;
	uint64_t rest_ns;		     /* when manager_rest looks next */
	int commands, commander[COMMANDERS]; /* manager_command.c */
	unsigned next_commander;
	int notes; /* the directory */
	struct claim **claims;
	size_t n_claims;
};

uint64_t manager_now_ns(void);
/* Tell people, through the owner's callback. */
void manager_event(struct manager *m, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Have events of fd dispatched; index: of the VM, or the fd. 0 or -errno. */
int manager_watch(struct manager *m, int fd, enum source src, uint32_t index,
		  uint32_t events);
/* Closes it if it is open, and makes it -1. */
void manager_close_fd(int *fd);

/* Sample the monitor's own memory if it is time (exact: anyway, and however long
 * it takes). */
void manager_sample_overhead(struct mvm *v, uint64_t now, bool exact);
/* Of --swap-size, the part of a VM of that size. */
uint64_t manager_swap_bytes(const struct manager *m, uint64_t mem);
/* A swap file of bytes in --swap DIR: its descriptor, or -errno with one line in
 * err. */
int manager_swap_file(const struct manager *m, uint64_t bytes, char *err,
		      size_t errlen);
/* Look at the budget if it is time, and set the VMs' quotas. */
void manager_reclaim(struct manager *m, uint64_t now);
/* One look at a VM's balloon, whose target of memory is given. */
void manager_balloon(struct mvm *v, uint64_t target, uint64_t now);
/* Keep the balloon at bytes (auto_: the policy's again, from there on). -EINVAL
 * with one line in err. */
int manager_balloon_set(struct mvm *v, uint64_t bytes, bool auto_, char *err,
			size_t errlen);
/* Tell the monitor that there is something new for it. */
void manager_nudge(struct mvm *v);
/* Pages of the VM's that hold something of its own, here or away: bytes. */
uint64_t manager_own_bytes(const struct mvm *v);
/* Say which VMs may be compressed while they rest, if it is time. */
void manager_rest(struct manager *m, uint64_t now);
/* Before the VM starts: its shares and bounds, and a quota. -ENOMEM with one
 * line in err when its minimum does not fit. */
int manager_admit(struct manager *m, struct mvm *v, const struct vm_spec *s,
		  char *err, size_t errlen);

/* Have the monitor look at the words of the control area. */
void manager_nudge(struct mvm *v);

/* The least that the budget must be for the VMs that run. */
uint64_t manager_minima(const struct manager *m);

/* The socket for commands: made, closed and removed, its events. */
int manager_open_commands(struct manager *m);
void manager_close_commands(struct manager *m);
void manager_on_commands(struct manager *m);
void manager_on_commander(struct manager *m, int fd);

/* The directory of notes, beside the socket: opened (with one line in err);
 * closed, and removed if it is empty. */
int manager_open_notes(struct manager *m, char *err, size_t errlen);
void manager_close_notes(struct manager *m);
/* The VM's files in it: the socket where its monitor takes offers, bound anew
 * (a descriptor or -errno), and its address; the note, written or replaced; the
 * same, if there is one, telling of a failure; both removed. */
int manager_bind_offers(const struct manager *m, const char *name);
void manager_offer_address(const struct manager *m, const char *name,
			   struct sockaddr_un *sa);
int mvm_note(struct mvm *v);
void mvm_note_again(struct mvm *v);
void manager_forget(const struct manager *m, const char *name);
int manager_read_note(const struct manager *m, const char *name,
		      struct vm_note *n);
/* fd < 0: zeroes. 0 or -errno. */
int manager_file_id(int fd, struct file_id *id);

/* Look for notes of VMs; offer ourselves to them, if it is time; something
 * came from one; forget them (the VMs stay). */
int manager_find_claims(struct manager *m);
void manager_adopt(struct manager *m, uint64_t now);
void manager_on_claim(struct manager *m, size_t index);
void manager_drop_claims(struct manager *m);
/* Sum of their minima. */
uint64_t manager_claimed_min(const struct manager *m);

/* Send a signal to its process, and surely to no other. */
void mvm_kill(struct mvm *v, int sig);
/* Everything that the VM holds in this process. */
void mvm_release(struct mvm *v);
/* Something came on the pipe of its stderr. */
void mvm_on_text(struct mvm *v);
/* What the monitors say of themselves, of one VM or all: {NAME: {GROUP: {COUNTER:
 * value}}}. */
json_t *manager_stats(struct manager *m, const char *name);
/* Its process has ended, with this wait status. */
void mvm_on_exit(struct mvm *v, int status);
/* The same of one that is not our child. */
void mvm_on_gone(struct mvm *v);
#endif
