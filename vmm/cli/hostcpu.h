/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_HOSTCPU_H
#define SARDINE_VMM_CLI_HOSTCPU_H
/* What the host's CPU has, as a program may use it. */
#include <stdbool.h>

bool hostcpu_bmi2(void);
bool hostcpu_avx2(void);
bool hostcpu_fsgsbase(void);	    /* the CPU has it */
bool hostcpu_fsgsbase_usable(void); /* and the kernel lets programs use it */
#endif
