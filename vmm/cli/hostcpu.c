/* SPDX-License-Identifier: Apache-2.0 */
/* A file of its own: <elf.h>, which <sys/auxv.h> brings, and vmm/cpu/vcpu.h
 * both define PF_W. */
#include "vmm/cli/hostcpu.h"

#include <cpuid.h>
#include <sys/auxv.h>

#define HWCAP2_FSGSBASE_BIT (1ul << 1)

static unsigned leaf7_ebx(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) ? b : 0;
}

bool hostcpu_bmi2(void)
{
	return leaf7_ebx() & bit_BMI2;
}

bool hostcpu_avx2(void)
{
	return leaf7_ebx() & bit_AVX2;
}

bool hostcpu_fsgsbase(void)
{
	return leaf7_ebx() & bit_FSGSBASE;
}

bool hostcpu_fsgsbase_usable(void)
{
	return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT;
}
