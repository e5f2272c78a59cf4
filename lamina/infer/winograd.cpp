// Winograd's minimal filtering F(4x4, 3x3) on channels-last maps: Lavin and Gray, arXiv 1509.09308, section 4.3.
// A tile of 4x4 outputs takes 6x6 inputs. Between the two functions stand 36 matrix products, (tiles, C) by (C, M).
// Every inner loop runs over channels, which lie side by side: the compiler makes vector instructions of it.

#include <vector>

namespace {

// B^T d of six values (equation in section 4.3), each `step` apart.
inline void input_transform(const float* d, long step, float* out, long out_step) {
  float d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  float even = d4 - 4 * d2, odd = d3 - 4 * d1, far = d4 - d2, twice = 2 * (d3 - d1);
  out[0] = 4 * d0 - 5 * d2 + d4;
  out[out_step] = even + odd;
  out[2 * out_step] = even - odd;
  out[3 * out_step] = far + twice;
  out[4 * out_step] = far - twice;
  out[5 * out_step] = 4 * d1 - 5 * d3 + d5;
}

// A^T m of six values to four.
inline void output_transform(const float* m, long step, float* out, long out_step) {
  float sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
  float far_sum = m[3 * step] + m[4 * step], far_difference = m[3 * step] - m[4 * step];
  out[0] = m[0] + sum + far_sum;
  out[out_step] = difference + 2 * far_difference;
  out[2 * out_step] = sum + 4 * far_sum;
  out[3 * out_step] = difference + 8 * far_difference + m[5 * step];
}

struct Place {
  long image, row, column;
  Place(long tile, long rows, long columns) : image(tile / (rows * columns)), row(tile / columns % rows), column(tile % columns) {}
};

}  // namespace

// x (N, H, W, C) to v (36, count, C), of the tiles from `first` on.
extern "C" void input_tiles(const float* x, float* v, long H, long W, long C, long pad_y, long pad_x, long rows, long columns,
                            long first, long count, long threads) {
  const std::vector<float> zeros(C, 0.0f);
#pragma omp parallel for num_threads(threads)
  for (long i = 0; i < count; ++i) {
    const Place at(first + i, rows, columns);
    const float* pixel[36];
    for (long a = 0; a < 6; ++a)
      for (long b = 0; b < 6; ++b) {
        const long y = at.row * 4 + a - pad_y, z = at.column * 4 + b - pad_x;
        const bool inside = y >= 0 && y < H && z >= 0 && z < W;
        pixel[a * 6 + b] = inside ? x + ((at.image * H + y) * W + z) * C : zeros.data();
      }
    float* out = v + i * C;
#pragma omp simd
    for (long c = 0; c < C; ++c) {
      float tile[36], half[36];
      for (int p = 0; p < 36; ++p) tile[p] = pixel[p][c];
      for (int b = 0; b < 6; ++b) input_transform(tile + b, 6, half + b, 6);
      for (int a = 0; a < 6; ++a) input_transform(half + a * 6, 1, out + a * 6 * count * C + c, count * C);
    }
  }
}

// m (36, count, M) plus bias (M), plus other (as y) unless that is null or there is a pool, with relu and a 2x2 maximum pool if
// asked, to y (N, height, width, M) at those tiles.
extern "C" void output_tiles(const float* m, const float* bias, const float* other, float* y, long height, long width, long M, long rows,
                             long columns, long first, long count, long relu, long pool, long threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> outside(M);  // where a tile reaches over the edge
#pragma omp for
    for (long i = 0; i < count; ++i) {
      const Place at(first + i, rows, columns);
      const long side = pool ? 2 : 4;
      float* pixel[16];
      for (long a = 0; a < side; ++a)
        for (long b = 0; b < side; ++b) {
          const long p = at.row * side + a, q = at.column * side + b;
          pixel[a * side + b] = p < height && q < width ? y + ((at.image * height + p) * width + q) * M : outside.data();
        }
      const float* in = m + i * M;
      const float* term[16];
      for (long p = 0; other && p < 16; ++p) term[p] = pixel[p] == outside.data() ? outside.data() : other + (pixel[p] - y);
      const float low = relu ? 0.0f : -__builtin_inff();
#pragma omp simd
      for (long c = 0; c < M; ++c) {
        float half[24], tile[16];
        for (int b = 0; b < 6; ++b) output_transform(in + b * count * M + c, 6 * count * M, half + b, 6);
        for (int a = 0; a < 4; ++a) output_transform(half + a * 6, 1, tile + a * 4, 1);
        for (int p = 0; p < 16; ++p) {
          const float value = tile[p] + bias[c] + (other ? term[p][c] : 0.0f);
          tile[p] = value < low ? low : value;  // lets NaN through, as torch does
        }
        if (pool) {
          for (int a = 0; a < 2; ++a)
            for (int b = 0; b < 2; ++b) {
              const float *q = tile + a * 8 + b * 2, up = q[0] < q[1] ? q[1] : q[0], down = q[4] < q[5] ? q[5] : q[4];
              pixel[a * 2 + b][c] = up < down ? down : up;
            }
        } else {
          for (int p = 0; p < 16; ++p) pixel[p][c] = tile[p];
        }
      }
    }
  }
}
