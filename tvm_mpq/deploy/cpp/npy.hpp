// NumPy's .npy files: plain numbers in C order, little-endian, as numpy.save writes them.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "network.hpp"

namespace mpq {

// What follows a key of the header, such as `(1, 3), }` of 'shape'.
inline std::string npy_field(const std::string& header, const std::string& key, const std::string& path) {
  const size_t place = header.find("'" + key + "': ");
  if (place == std::string::npos) throw std::runtime_error(path + ": its header lacks " + key + ": " + header);
  return header.substr(place + key.size() + 4);
}

// code: such as '<f4', with its quotes.
inline DLDataType npy_dtype(const std::string& code, const std::string& path) {
  const bool plain = code.size() > 4 && std::strchr("<|=", code[1]) && std::strchr("1248", code[3]) && code[4] == '\'';
  const uint8_t bits = static_cast<uint8_t>(8 * (code[3] - '0'));
  if (plain && code[2] == 'f') return DLDataType{kDLFloat, bits, 1};
  if (plain && code[2] == 'i') return DLDataType{kDLInt, bits, 1};
  if (plain && code[2] == 'u') return DLDataType{kDLUInt, bits, 1};
  if (plain && code[2] == 'b') return DLDataType{kDLBool, 8, 1};
  throw std::runtime_error(path + ": numbers of this type are not read here: " + code.substr(0, code.find(',')));
}

// Read a file. Throws std::runtime_error with one line when it is something else.
inline Array load_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  const std::vector<char> all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(all[i])); };
  if (all.size() < 12 || std::memcmp(all.data(), "\x93NUMPY", 6) != 0)
    throw std::runtime_error(path + ": not a .npy file");
  // Version 1 has a header length of two bytes, later ones of four.
  const size_t start = byte(6) == 1 ? 10 : 12;
  size_t length = byte(8) + (byte(9) << 8);
  if (start == 12) length += (byte(10) << 16) + (byte(11) << 24);
  if (start + length > all.size()) throw std::runtime_error(path + ": the file ends within its header");
  const std::string header(all.data() + start, length);

  if (npy_field(header, "fortran_order", path).rfind("False", 0) != 0)
    throw std::runtime_error(path + ": in Fortran order; save it with numpy.ascontiguousarray");
  std::istringstream sizes(npy_field(header, "shape", path).substr(1));
  std::vector<int64_t> shape;
  for (int64_t size; sizes >> size; sizes.ignore(1)) shape.push_back(size);  // up to the closing bracket

  Array array(npy_dtype(npy_field(header, "descr", path), path), shape);
  if (all.size() - start - length != array.bytes())
    throw std::runtime_error(path + ": holds " + std::to_string(all.size() - start - length) + " bytes of numbers, its " +
                             "shape asks for " + std::to_string(array.bytes()));
  std::memcpy(array.data(), all.data() + start + length, array.bytes());
  return array;
}

}  // namespace mpq
