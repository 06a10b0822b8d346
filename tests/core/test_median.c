/* SPDX-License-Identifier: Apache-2.0
 * Medians of odd and even counts, whatever the order. */
#include "core/median.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void middle_of_sorted(void **state) {
    (void)state;
    double one[] = {7}, two[] = {4, 1}, three[] = {9, -1, 2}, four[] = {1e9, 3, 2, -5}, same[] = {2, 2, 2, 2, 2};
    assert_true(w4_median(one, 1) == 7);
    assert_true(w4_median(two, 2) == 2.5);
    assert_true(w4_median(three, 3) == 2);
    assert_true(three[0] == -1 && three[1] == 2 && three[2] == 9);
    assert_true(w4_median(four, 4) == 2.5);
    assert_true(w4_median(same, 5) == 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(middle_of_sorted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
