/* SPDX-License-Identifier: Apache-2.0 */
/* What `execloop` runs: a dynamically linked program with two libraries. */
#include <math.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	double x = argc > 1 ? atof(argv[1]) : 0;

	return (int)floor(pow(x + 1, 1.0)) - 1;
}
