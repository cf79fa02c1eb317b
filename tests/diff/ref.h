/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_DIFF_REF_H
#define SARDINE_TESTS_DIFF_REF_H
/* The reference: generated code run on the real CPU, in this process. */
#include "tests/diff/gen.h"

/* Maps GEN_CODE and GEN_ARENA, sets a signal stack. 0 or -errno. */
int ref_init(void);
/* Runs c from the state *in to its first exception; *out is the state there. */
void ref_run(const struct gen_code *c, const struct gen_state *in,
	     struct gen_state *out);
#endif
