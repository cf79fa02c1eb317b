/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_POWER_H
#define SARDINE_VMM_DEV_POWER_H
/* How a device ends or restarts the machine. Under the device lock. */
enum power_event { POWER_OFF, POWER_RESET, POWER_DEBUG_EXIT };
struct power_sink {
	/* code: the status, for POWER_DEBUG_EXIT. */
	void (*request)(void *ctx, enum power_event e, int code);
	void *ctx;
};
#endif
