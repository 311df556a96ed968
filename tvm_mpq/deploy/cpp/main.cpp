// Runs a network on .npy files and compares what it computes with what Python computed.
//
//     run_model MODEL.so INPUT.npy... [--expect OUTPUT.npy]... [--repeat N]
//
// Exit codes: 0 done, 1 an output differs or something went wrong, 2 wrong usage.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "network.hpp"
#include "npy.hpp"

namespace {

struct Arguments {
  std::string model;
  std::vector<std::string> inputs, expected;
  int repeat = 0;
};

bool parse(int argc, char** argv, Arguments* out) {
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word != "--expect" && word != "--repeat") {
      files.push_back(word);
    } else if (++i == argc) {
      return false;
    } else if (word == "--expect") {
      out->expected.push_back(argv[i]);
    } else {
      out->repeat = std::atoi(argv[i]);
    }
  }
  if (files.size() < 2) return false;
  out->model = files[0];
  out->inputs.assign(files.begin() + 1, files.end());
  return true;
}

std::string shape_of(const tvm::ffi::Tensor& tensor) {
  std::string text;
  for (int64_t size : tensor.shape()) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text.empty() ? "a single number" : text;
}

// Largest difference of two float32 tensors; of other types, the number of bytes that differ.
double difference(const tvm::ffi::Tensor& found, const tvm::ffi::Tensor& expected) {
  const size_t bytes = mpq::bytes_of(found);
  const bool is_float = found.dtype().code == kDLFloat && found.dtype().bits == 32;
  double most = 0;
  for (size_t i = 0; i < bytes / (is_float ? sizeof(float) : 1); ++i) {
    if (is_float) {
      const double gap = std::fabs(static_cast<const float*>(found.data_ptr())[i] -
                                   static_cast<const float*>(expected.data_ptr())[i]);
      most = gap > most || std::isnan(gap) ? gap : most;
    } else {
      most += static_cast<const char*>(found.data_ptr())[i] != static_cast<const char*>(expected.data_ptr())[i];
    }
  }
  return most;
}

// Whether an output is, bit for bit, what a file holds. The same library on the same CPU computes the same bits.
bool equal(size_t index, const tvm::ffi::Tensor& found, const std::string& path) {
  const mpq::Array expected = mpq::load_npy(path);
  const size_t bytes = mpq::bytes_of(found);
  if (shape_of(found) != shape_of(expected.tensor()) || bytes != expected.bytes()) {
    std::printf("output %zu is %s; %s holds %s\n", index, shape_of(found).c_str(), path.c_str(),
                shape_of(expected.tensor()).c_str());
    return false;
  }
  if (std::memcmp(found.data_ptr(), expected.tensor().data_ptr(), bytes) == 0) {
    std::printf("output %zu equals %s bit for bit\n", index, path.c_str());
    return true;
  }
  std::printf("output %zu differs from %s by %g\n", index, path.c_str(), difference(found, expected.tensor()));
  return false;
}

int run(const Arguments& arguments) {
  using Clock = std::chrono::steady_clock;
  std::vector<tvm::ffi::Tensor> inputs;
  for (const std::string& path : arguments.inputs) inputs.push_back(mpq::load_npy(path).tensor());
  mpq::Network network(arguments.model);
  const std::vector<tvm::ffi::Tensor> outputs = network.run(inputs);
  for (size_t i = 0; i < outputs.size(); ++i) std::printf("output %zu: %s\n", i, shape_of(outputs[i]).c_str());

  std::vector<double> times_ms;
  for (int i = 0; i < arguments.repeat; ++i) {
    const Clock::time_point begin = Clock::now();
    network.run(inputs);
    times_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  }
  if (!times_ms.empty()) {
    std::sort(times_ms.begin(), times_ms.end());
    std::printf("%zu runs: median %.3f ms, fastest %.3f ms\n", times_ms.size(), times_ms[times_ms.size() / 2],
                times_ms.front());
  }
  if (arguments.expected.size() > outputs.size()) {
    std::printf("%zu outputs are expected, the network has %zu\n", arguments.expected.size(), outputs.size());
    return 1;
  }
  bool all_equal = true;
  for (size_t i = 0; i < arguments.expected.size(); ++i) all_equal &= equal(i, outputs[i], arguments.expected[i]);
  return all_equal ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, &arguments)) {
    std::fprintf(stderr, "usage: run_model MODEL.so INPUT.npy... [--expect OUTPUT.npy]... [--repeat N]\n");
    return 2;
  }
  try {
    return run(arguments);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
