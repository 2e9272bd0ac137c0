// f32 numbers as two 16-bit floats each: x * 2^shift = high + low / 2^LOW_SHIFT, where shift, one for a whole
// tensor, puts its largest magnitude between 2^14 and 2^15.

// The words of a split tensor before its numbers: the largest magnitude's bits in the first, parts of it from
// PARTS on.
const uint MAX_PARTS = 256;

// `largest` has the bits of the largest magnitude, which is finite.
int shift_of(uint largest) {
    int exponent = int(largest >> 23) - 127;
    // What is so small that its scale would not be a number is left small.
    return largest == 0 ? 0 : min(14 - exponent, 100);
}

// 2^exponent, which is a normal number.
float power_of_two(int exponent) {
    return uintBitsToFloat(uint(exponent + 127) << 23);
}
