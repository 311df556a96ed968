// A network built by tvm-mpq, loaded and run through TVM's runtime. Header only; needs C++17, libtvm_runtime and
// libtvm_ffi.
//
//     mpq::Network network("model.so");
//     mpq::Array x(DLDataType{kDLFloat, 32, 1}, {1, 3, 32, 32});
//     ... fill x.data() ...
//     std::vector<tvm::ffi::Tensor> outputs = network.run({x.tensor()});
#pragma once

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace mpq {

// Bytes that a tensor's elements take.
inline size_t bytes_of(const tvm::ffi::Tensor& tensor) { return tvm::ffi::GetDataSize(*tensor.GetDLTensorPtr()); }

// An array in this machine's memory that a network reads: C order, aligned as its kernels ask.
class Array {
 public:
  Array(DLDataType dtype, const std::vector<int64_t>& shape)
      : tensor_(tvm::ffi::Tensor::FromNDAlloc(Memory(), tvm::ffi::ShapeView(shape.data(), shape.size()), dtype,
                                              DLDevice{kDLCPU, 0})) {}

  void* data() { return tensor_.data_ptr(); }
  size_t bytes() const { return bytes_of(tensor_); }
  const tvm::ffi::Tensor& tensor() const { return tensor_; }

 private:
  struct Memory {
    static constexpr size_t kAlignment = 64;

    void AllocData(DLTensor* tensor) {
      const size_t padded = (tvm::ffi::GetDataSize(*tensor) / kAlignment + 1) * kAlignment;
      tensor->data = std::aligned_alloc(kAlignment, padded);
      if (tensor->data == nullptr) throw std::bad_alloc();
    }
    void FreeData(DLTensor* tensor) { std::free(tensor->data); }
  };

  tvm::ffi::Tensor tensor_;
};

// A loaded library. A call reuses memory of the calls before it: use one Network in one thread at a time.
class Network {
 public:
  // path: of model.so. Throws tvm::ffi::Error when the library or the runtime does not fit this machine.
  explicit Network(const std::string& path)
      : library_(tvm::ffi::Module::LoadFromFile(with_folder(path))), machine_(library_) {
    constexpr int kPooledAllocator = 2;  // memory of a run stays for the next one
    machine_ = function(library_, "vm_load_executable")().cast<tvm::ffi::Module>();
    function(machine_, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    main_ = function(machine_, "main");
  }

  // inputs: in the order of the README beside model.so. Outputs are in the order of the source model.
  std::vector<tvm::ffi::Tensor> run(const std::vector<tvm::ffi::Tensor>& inputs) {
    std::vector<tvm::ffi::AnyView> arguments(inputs.begin(), inputs.end());
    tvm::ffi::Any result;
    main_.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    std::vector<tvm::ffi::Tensor> outputs;
    collect(result, &outputs);
    return outputs;
  }

 private:
  // A bare name would be looked for where the system's libraries are.
  static std::string with_folder(const std::string& path) {
    return path.find('/') == std::string::npos ? "./" + path : path;
  }

  static tvm::ffi::Function function(const tvm::ffi::Module& module, const char* name) {
    tvm::ffi::Optional<tvm::ffi::Function> found = module->GetFunction(name);
    if (!found.has_value()) TVM_FFI_THROW(RuntimeError) << "the library has no function " << name;
    return found.value();
  }

  // Several outputs come as a tuple.
  static void collect(const tvm::ffi::Any& result, std::vector<tvm::ffi::Tensor>* outputs) {
    if (auto tensor = result.try_cast<tvm::ffi::Tensor>()) {
      outputs->push_back(std::move(*tensor));
      return;
    }
    for (const tvm::ffi::Any& part : result.cast<tvm::ffi::Array<tvm::ffi::Any>>()) collect(part, outputs);
  }

  tvm::ffi::Module library_;
  tvm::ffi::Module machine_;
  tvm::ffi::Function main_;
};

}  // namespace mpq
