"""What an image promises, told case by case; `appliance.qemu.proof` lists them."""
