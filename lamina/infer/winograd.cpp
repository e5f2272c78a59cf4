// Winograd's minimal filtering F(4x4, 3x3) on channels-last maps: Lavin and Gray, arXiv 1509.09308, section 4.3.
// A tile of 4x4 outputs takes 6x6 inputs. Between the transforms of inputs and outputs stand 36 matrix products,
// (tiles, C) by (C, M). Every inner loop runs over channels, which lie side by side, a vector at a time.

#include <cstring>
#include <utility>
#include <vector>

namespace {

// The widest vector of this machine, and as many rows of a product as its registers hold sums of, two vectors for each row.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6;
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr long PANEL = 2 * LANES;  // filters side by side in a panel
constexpr long AHEAD = 16;         // rows of a panel
constexpr long APART = 16;         // floats between two of the 36: rows that start a power of two apart fall on the same cache lines

typedef float Vector __attribute__((vector_size(4 * LANES)));

template <class V> V load(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class V> void store(float* to, V value) { std::memcpy(to, &value, sizeof value); }

// B^T d of six values (equation in section 4.3), each `step` apart.
template <class V> void input_transform(const V* d, int step, V* out, int out_step) {
  V d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  V even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, far = d4 - d2, twice = 2.0f * (d3 - d1);
  out[0] = 4.0f * d0 - 5.0f * d2 + d4;
  out[out_step] = even + odd;
  out[2 * out_step] = even - odd;
  out[3 * out_step] = far + twice;
  out[4 * out_step] = far - twice;
  out[5 * out_step] = 4.0f * d1 - 5.0f * d3 + d5;
}

// A^T m of six values to four.
template <class V> void output_transform(const V* m, int step, V* out, int out_step) {
  V sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
  V far_sum = m[3 * step] + m[4 * step], far_difference = m[3 * step] - m[4 * step];
  out[0] = m[0] + sum + far_sum;
  out[out_step] = difference + 2.0f * far_difference;
  out[2 * out_step] = sum + 4.0f * far_sum;
  out[3 * out_step] = difference + 8.0f * far_difference + m[5 * step];
}

// One tile's channels from c on: 36 values of each, `apart` from one another.
template <class V> void input_tile(const float* const* pixel, long c, float* out, long apart) {
  V tile[36], half[36];
  for (int p = 0; p < 36; ++p) tile[p] = load<V>(pixel[p] + c);
  for (int b = 0; b < 6; ++b) input_transform(tile + b, 6, half + b, 6);
  for (int a = 0; a < 6; ++a) input_transform(half + a * 6, 1, tile + a * 6, 1);
  for (int p = 0; p < 36; ++p) store<V>(out + p * apart + c, tile[p]);
}

template <class V> V larger(V a, V b) { return a < b ? b : a; }

// One tile's filters from c on, with bias, `term` unless that is null, at least `low`, and the maximum of 2x2 if `pool`.
template <class V>
void output_tile(const float* in, long apart, const float* bias, const float* const* term, float low, bool pool, long c,
                 float* const* pixel) {
  V made[36], half[24], tile[16];
  for (int p = 0; p < 36; ++p) made[p] = load<V>(in + p * apart + c);
  for (int b = 0; b < 6; ++b) output_transform(made + b, 6, half + b, 6);
  for (int a = 0; a < 4; ++a) output_transform(half + a * 6, 1, tile + a * 4, 1);
  for (int p = 0; p < 16; ++p) {
    V value = tile[p] + load<V>(bias + c);
    if (term) value += load<V>(term[p] + c);
    tile[p] = value < low ? low + V{} : value;  // lets NaN through, as torch does
  }
  if (!pool)
    for (int p = 0; p < 16; ++p) store<V>(pixel[p] + c, tile[p]);
  else
    for (int p = 0; p < 4; ++p) {
      const V* q = tile + (p / 2) * 8 + (p % 2) * 2;
      store<V>(pixel[p] + c, larger(larger(q[0], q[1]), larger(q[4], q[5])));
    }
}

// R rows of a (R, depth) by a panel of b (depth, PANEL) to c (R, PANEL); rows of a and c are `depth` and `width` apart.
template <int R> void product(const float* a, const float* b, float* c, long depth, long width) {
  Vector sum[R][2] = {};
  for (long k = 0; k < depth; ++k) {
    __builtin_prefetch(b + (k + AHEAD) * PANEL);  // large filters come from memory: a quarter faster so
    __builtin_prefetch(b + (k + AHEAD) * PANEL + LANES);
    const Vector left = load<Vector>(b + k * PANEL), right = load<Vector>(b + k * PANEL + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float value = a[r * depth + k];
      sum[r][0] += value * left;
      sum[r][1] += value * right;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    store<Vector>(c + r * width, sum[r][0]);
    store<Vector>(c + r * width + LANES, sum[r][1]);
  }
}

using Product = void (*)(const float*, const float*, float*, long, long);
template <int... R> Product product_of(int rows, std::integer_sequence<int, R...>) {
  static constexpr Product all[] = {product<R + 1>...};
  return all[rows - 1];
}

struct Place {
  long image, row, column;
  Place(long tile, long rows, long columns) : image(tile / (rows * columns)), row(tile / columns % rows), column(tile % columns) {}
};

// All rows of a by one panel, in passes of nearly equal numbers of rows.
void product_of_rows(const float* a, const float* b, float* c, long rows, long depth, long width) {
  const long passes = (rows + ROWS - 1) / ROWS;
  for (long pass = 0; pass < passes; ++pass) {
    const long first = rows * pass / passes, count = rows * (pass + 1) / passes - first;
    product_of(count, std::make_integer_sequence<int, ROWS>())(a + first * depth, b, c + first * width, depth, width);
  }
}

}  // namespace

extern "C" long panel_width() { return PANEL; }

// What a block of tiles needs: (36, tiles, channels), with APART between.
extern "C" long scratch_floats(long tiles, long channels) { return 36 * (tiles * channels + APART); }

// x (N, H, W, C) by filters (36, panels, C, PANEL) plus bias (M), plus other (as y) unless that is null or there is a pool, with
// relu and a 2x2 maximum pool if asked, to y (N, height, width, M). `block` tiles at a time pass through given and made, which
// hold scratch_floats of C and of panels * PANEL.
extern "C" void convolve(const float* x, const float* filters, const float* bias, const float* other, float* y, float* given,
                         float* made, long N, long H, long W, long C, long height, long width, long M, long pad_y, long pad_x,
                         long rows, long columns, long block, long relu, long pool, long threads) {
  const long panels = (M + PANEL - 1) / PANEL, breadth = panels * PANEL, tiles = N * rows * columns, side = pool ? 2 : 4;
  const float low = relu ? 0.0f : -__builtin_inff();
  const std::vector<float> zeros(C, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> outside(M);  // what reaches over the edge
    for (long first = 0; first < tiles; first += block) {
      const long count = tiles - first < block ? tiles - first : block;
      const long given_apart = count * C + APART, made_apart = count * breadth + APART;
#pragma omp for schedule(static)
      for (long i = 0; i < count; ++i) {
        const Place tile(first + i, rows, columns);
        const float* pixel[36];
        for (long p = 0; p < 36; ++p) {
          const long v = tile.row * 4 + p / 6 - pad_y, h = tile.column * 4 + p % 6 - pad_x;
          pixel[p] = v >= 0 && v < H && h >= 0 && h < W ? x + ((tile.image * H + v) * W + h) * C : zeros.data();
        }
        long c = 0;
        for (; c + LANES <= C; c += LANES) input_tile<Vector>(pixel, c, given + i * C, given_apart);
        for (; c < C; ++c) input_tile<float>(pixel, c, given + i * C, given_apart);
      }
#pragma omp for schedule(static)
      for (long job = 0; job < 36 * panels; ++job) {
        const long p = job / panels, panel = job % panels;
        float* to = made + p * made_apart + panel * PANEL;
        product_of_rows(given + p * given_apart, filters + job * C * PANEL, to, count, C, breadth);
      }
#pragma omp for schedule(static)
      for (long i = 0; i < count; ++i) {
        const Place tile(first + i, rows, columns);
        float* pixel[16];
        const float* term[16];
        for (long p = 0; p < side * side; ++p) {
          const long v = tile.row * side + p / side, h = tile.column * side + p % side;
          const long place = ((tile.image * height + v) * width + h) * M;
          pixel[p] = v < height && h < width ? y + place : outside.data();
          term[p] = other && v < height && h < width ? other + place : outside.data();
        }
        const float* in = made + i * breadth;
        const float* const* terms = other && !pool ? term : nullptr;
        long c = 0;
        for (; c + LANES <= M; c += LANES) output_tile<Vector>(in, made_apart, bias, terms, low, pool, c, pixel);
        for (; c < M; ++c) output_tile<float>(in, made_apart, bias, terms, low, pool, c, pixel);
      }
    }
  }
}
